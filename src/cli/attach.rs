//! `attach`: its arguments, among them HOST:RUN.

use super::{Attach, command, no_effect};
use crate::config::Flags;
use crate::domain::text::plain;
use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// The subcommand.
pub(super) fn subcommand() -> Command {
    Command::new("attach")
        .about("The screen of a session that runs already: one that lost its terminal, was detached with D, or is another's")
        .arg(
            Arg::new("run")
                .value_name("[HOST:]RUN")
                .help("The run's name or folder; without one the newest session. HOST:RUN, or HOST: alone, is on another computer"),
        )
        .arg(
            Arg::new("ssh")
                .long("ssh")
                .value_name("COMMAND")
                .value_parser(NonEmptyStringValueParser::new())
                .help("The program that connects to HOST, with its options, instead of 'ssh -T'"),
        )
        .arg(
            Arg::new("pipe")
                .long("pipe")
                .action(ArgAction::SetTrue)
                .conflicts_with("ssh")
                .help("Without the screen: commands on standard input, events on standard output (see `cifar-tui protocol`)"),
        )
        .after_help(
            "The whole history is there, and every key works. D leaves, and training goes on.\n\n\
             On another computer, cifar-tui must be in the PATH of commands over ssh. RUN is a name in the runs folder\n\
             there or a path from the home folder there, as is --runs. Only the protocol crosses, and the screen is drawn\n\
             here. A broken connection is taken up again. HOST is what stands before the first colon, unless that has a\n\
             slash; write [HOST]:RUN for one with colons, and ./RUN for a folder here with one. Examples:\n  \
             cifar-tui attach\n  \
             cifar-tui attach seed-0412\n  \
             cifar-tui attach me@gpu-3:seed-0412\n  \
             cifar-tui attach --ssh 'ssh -p 2222 -J gate' gpu-3:work/runs/seed-0412",
        )
}

/// # Errors
/// Returns an error if HOST is missing before a colon, or the arguments do not fit together.
pub(super) fn attach(matches: &ArgMatches, flags: &mut Flags) -> Result<Attach, clap::Error> {
    let wrong = |why: String| command().error(ErrorKind::InvalidValue, why);
    let run = matches.get_one::<String>("run").cloned();
    if matches.get_flag("pipe") {
        return Ok(Attach::Pipe { run });
    }
    let ssh = matches.get_one::<String>("ssh");
    let Some((host, far)) = run.as_deref().and_then(split_host) else {
        return match ssh {
            Some(_) => Err(no_effect("--ssh", "attach` without HOST:")),
            None => Ok(Attach::Here { run }),
        };
    };
    if host.is_empty() {
        return Err(wrong(format!(
            "there is no HOST before the colon of '{}'; write ./ before the folder of a run on this computer",
            plain(run.as_deref().unwrap_or_default())
        )));
    }
    let ssh = ssh.map(|text| {
        let words = shlex::split(text).filter(|words| !words.is_empty());
        words.ok_or_else(|| {
            wrong(format!(
                "--ssh '{}' has a quote without its end",
                plain(text)
            ))
        })
    });
    // This flag is for the other computer.
    let given = flags.options.iter().position(|(key, _)| *key == "runs");
    let runs = given.map(|at| flags.options.remove(at).1);
    for word in [Some(host), Some(far), runs.as_deref()]
        .into_iter()
        .flatten()
    {
        if plain(word) != word {
            return Err(wrong(format!(
                "'{}' has hidden characters, which no command line can hold",
                plain(word)
            )));
        }
    }
    Ok(Attach::Remote {
        host: host.into(),
        run: Some(far).filter(|far| !far.is_empty()).map(str::to_owned),
        ssh: ssh.transpose()?,
        runs,
    })
}

/// The host and the run of HOST:RUN or [HOST]:RUN. None if there is no colon, or a slash before it.
fn split_host(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once("]:");
    }
    text.split_once(':').filter(|(host, _)| !host.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Task, parse};

    fn parsed(words: &[&str]) -> Result<Attach, clap::Error> {
        let words = [&["cifar-tui", "attach"], words].concat();
        parse(words).map(|invocation| match invocation.task {
            Task::Attach(attach) => attach,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_host_stands_before_the_first_colon_unless_it_has_a_slash() {
        let remote = |host: &str, run: Option<&str>| Attach::Remote {
            host: host.into(),
            run: run.map(str::to_owned),
            ssh: None,
            runs: None,
        };
        let here = |run: &str| Attach::Here {
            run: Some(run.into()),
        };
        for (text, attach) in [
            ("gpu-3:one", remote("gpu-3", Some("one"))),
            ("me@gpu-3:work/a:b", remote("me@gpu-3", Some("work/a:b"))),
            ("gpu-3:", remote("gpu-3", None)),
            ("[fe80::1%eth0]:one", remote("fe80::1%eth0", Some("one"))),
            ("one", here("one")),
            ("./a:b", here("./a:b")),
            ("/a:b/one", here("/a:b/one")),
            ("[one]", here("[one]")),
        ] {
            assert_eq!(parsed(&[text]).unwrap(), attach, "{text}");
        }
        let piped = Attach::Pipe {
            run: Some("a:b".into()),
        };
        assert_eq!(parsed(&["--pipe", "a:b"]).unwrap(), piped);
        let words = ["--ssh", "my\\ ssh -o 'A B'", "--runs", "x y", "h:"];
        let attach = Attach::Remote {
            host: "h".into(),
            run: None,
            ssh: Some(vec!["my ssh".into(), "-o".into(), "A B".into()]),
            runs: Some("x y".into()),
        };
        assert_eq!(parsed(&words).unwrap(), attach);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (words, part) in [
            (&[":one"][..], "no HOST before the colon"),
            (&["--ssh", "a 'b", "h:one"], "a quote without its end"),
            (
                &["--ssh", "a", "one"],
                "no effect on `attach` without HOST:",
            ),
            (&["--ssh", "a", "--pipe", "one"], "cannot be used with"),
            (&["h:a\nb"], "hidden characters"),
            (&["-oProxyCommand=x:one"], "unexpected argument"),
        ] {
            let error = parsed(words).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{words:?}: {error}");
        }
    }
}
