//! Random input through a pseudo-terminal: keys, mouse, pastes and resizes. Afterwards a signal must end the program
//! normally, with the terminal restored.

use crate::LONG;
use crate::pty::{Pty, Size};
use cifar_tui::domain::rng::{Rng, Stream};

/// Number of inputs per program. Even the longest ones together fit into the terminal's input buffer if the program
/// does not read.
const EACH: u32 = 100;

/// Keys as a terminal sends them, without those that quit, detach or suspend; their actions can still be chosen in the
/// palette.
const KEYS: [&str; 16] = [
    "\r",
    "\t",
    "\u{7f}",
    "\u{1b}[A",
    "\u{1b}[B",
    "\u{1b}[C",
    "\u{1b}[D",
    "\u{1b}[H",
    "\u{1b}[F",
    "\u{1b}[5~",
    "\u{1b}[6~",
    "\u{1b}[Z",
    "\u{c}",
    "\u{15}",
    "\u{4}",
    "\u{1b}[200~conv 8, dense\u{1b}[201~",
];

fn storm(count: u32) {
    for round in 0..count.div_ceil(EACH) {
        let rng = Rng::new(2, Stream::Sample, round.into());
        let mut drawn = 0;
        let mut below = |limit: usize| {
            drawn += 1;
            rng.word(drawn) as usize % limit
        };
        let mut pty = Pty::start(Size::WIDE, LONG);
        pty.wait_for("an epoch", |s| s.contains("best"));
        for _ in 0..EACH {
            match below(10) {
                0 => pty.resize(Size {
                    width: [0, 1, 40, 60, 80, 120, 200, 500][below(8)],
                    height: [0, 1, 18, 24, 36, 60, 200][below(7)],
                }),
                1 => {
                    let (x, y) = (1 + below(130), 1 + below(40));
                    let end = ["M", "m"][below(2)];
                    pty.keys(&format!(
                        "\u{1b}[<{};{x};{y}{end}",
                        [0, 32, 64, 65][below(4)]
                    ));
                }
                2..=4 => pty.keys(KEYS[below(KEYS.len())]),
                _ => {
                    let c = char::from(b' ' + below(95) as u8);
                    if !['q', 'D'].contains(&c) {
                        pty.keys(&c.to_string());
                    }
                }
            }
        }
        pty.resize(Size::WIDE);
        pty.signal(libc::SIGTERM);
        // The palette may have suspended the program.
        pty.signal(libc::SIGCONT);
        let code = pty.code();
        // 0 if the palette chose to quit.
        assert!([143, 0].contains(&code), "round {round}: {code}");
        pty.modes_are_as_before();
    }
}

#[test]
fn a_storm_of_input_leaves_the_terminal_as_it_was() {
    storm(EACH);
}

#[test]
#[ignore = "the long form: 5,000 inputs"]
fn five_thousand_inputs() {
    storm(5000);
}
