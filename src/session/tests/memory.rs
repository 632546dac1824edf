//! The memory that the events of a long session take.

use super::*;

/// Resident memory of this process in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    1024 * line
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
}

/// 24 hours of training report their steps 25 times a second: 2,160,000 reports. Here each step is one report, with
/// three viewers: one in the process that reads, one over the socket that reads, and one over the socket that does not
/// read.
#[test]
#[ignore = "the long form: minutes"]
fn a_day_s_events_take_no_more_memory_than_an_hour_s() {
    use crate::session::attach::{attach, find};
    const EPOCHS: u32 = 1_000;
    let runs = tempfile::tempdir().unwrap();
    let wanted = Settings {
        params: Hyperparameters {
            architecture: "dense 10".into(),
            batch_size: 1,
            epochs: EPOCHS.into(),
            validation: 0.2,
            ..Hyperparameters::default()
        },
        serve: true,
        paused: true,
        report_interval: Duration::ZERO,
        ..settings(runs.path())
    };
    let host = wanted.host.clone();
    // 2,700 images, of which 540 are for validation: 2,160 steps an epoch.
    const IMAGES: usize = 2_700;
    let data = || {
        let mut data = dataset();
        let again = |all: &[u8], length| all.iter().copied().cycle().take(length).collect();
        let labels: Vec<u8> = again(&data.train.labels, IMAGES);
        let pixels: Vec<u8> = again(&data.train.pixels, IMAGES * 3 * SIDE * SIDE);
        (data.train.labels, data.train.pixels) = (labels, pixels.into());
        data.info.train = IMAGES as u32;
        data
    };
    let (client, thread) = start_with(wanted, move |_, _| Ok(data())).unwrap();
    let paused = client
        .events
        .iter()
        .find(|message| message.event == Event::State(State::Paused));
    assert!(paused.is_some());
    let session = find(runs.path(), None, &host).unwrap().0;
    let reads = attach(&session).unwrap();
    let _stands_still = attach(&session).unwrap();
    let reader = std::thread::spawn(move || reads.events.iter().count());
    client.commands.send(Command::Resume).unwrap();
    let (mut events, mut early) = (0u64, 0);
    for event in client.events.iter().map(|message| message.event) {
        events += 1;
        match event {
            Event::Epoch(epoch) if epoch.epoch % (EPOCHS / 10) == 0 => {
                let now = memory();
                if epoch.epoch == EPOCHS / 10 {
                    early = now;
                }
                println!(
                    "epoch {}, step {}: {} kB",
                    epoch.epoch,
                    epoch.step,
                    now / 1024
                );
                assert!(now < early + early / 4, "{early} bytes grew to {now}");
            }
            Event::State(State::Done) => break,
            _ => {}
        }
    }
    println!("{events} events beside the steps");
    client.commands.send(Command::Quit).unwrap();
    client.events.iter().for_each(drop);
    thread.join().unwrap();
    println!("{} were read over the socket", reader.join().unwrap());
    assert_eq!(step(runs.path(), LAST), 2_160 * u64::from(EPOCHS));
}
