//! The manual pages and the shell completions, written from the definitions of the command line and of the configuration.
//!
//! `respgate man` and `respgate completions` print them; `make deb` puts them into the package.

mod configuration;
mod inline;

use std::io;

use clap::{Arg, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::cli;

/// The name of the page about the configuration file.
const CONFIGURATION: &str = "respgate.toml.5";

/// Returns the names of all pages, as files in a folder of manual pages have them.
pub fn names() -> Vec<String> {
    let commands = commands();
    let pages = commands.iter().map(|command| format!("{}.1", title(command)));
    pages.chain([CONFIGURATION.to_owned()]).collect()
}

/// Returns the manual page of that name, in the format of `man`; `None` if there is no such page.
pub fn page(name: &str) -> Option<String> {
    if name == CONFIGURATION {
        return Some(configuration::page());
    }
    let commands = commands();
    let command = commands.iter().find(|command| name == format!("{}.1", title(command)))?;
    command_page(command).ok()
}

/// Returns the script by which a shell completes respgate's commands and options.
pub fn completions(shell: cli::Shell) -> String {
    let mut script = Vec::new();
    let shell = match shell {
        cli::Shell::Bash => Shell::Bash,
        cli::Shell::Zsh => Shell::Zsh,
        cli::Shell::Fish => Shell::Fish,
    };
    clap_complete::generate(shell, &mut cli::command(), "respgate", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Returns respgate's command and each command below it.
fn commands() -> Vec<Command> {
    let mut root = cli::command();
    root.build();
    let mut all = vec![root];
    let mut at = 0;
    while let Some(command) = all.get(at) {
        let below: Vec<Command> = command.get_subcommands().cloned().collect();
        all.extend(below);
        at += 1;
    }
    all
}

/// Returns the name of a command's page, as `respgate-ctl-pause`.
fn title(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn command_page(command: &Command) -> io::Result<String> {
    // The texts of --help leave the variables out, because the end of the help explains them.
    let command = command.clone().mut_args(|arg: Arg| arg.hide_env(false));
    let after = command.get_after_help().map(ToString::to_string);
    let has_subcommands = command.has_subcommands();
    let man = Man::new(command).source(concat!("respgate ", env!("CARGO_PKG_VERSION"))).manual("respgate");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_subcommands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut end = Roff::new();
    if let Some(after) = after {
        // The lines of these texts are broken and indented already.
        end.control("SH", ["NOTES"]).control("nf", []).text([roman(after)]).control("fi", []);
    }
    end.control("SH", ["SEE ALSO"]).text([roman("respgate(1), respgate.toml(5)")]);
    end.to_writer(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let names = names();
        for name in
            ["respgate.1", "respgate-check.1", "respgate-ctl-pause.1", "respgate-upgrade.1", CONFIGURATION]
        {
            assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
        }
        for name in &names {
            let page = page(name).expect("a page");
            let text = page.trim_start_matches(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n");
            assert!(text.starts_with(".TH "), "{name}: {text:.80}");
        }
        assert_eq!(page("respgate-fly.1"), None);
    }

    #[test]
    fn a_page_names_options_and_their_variables() {
        let page = page("respgate.1").expect("a page");
        assert!(page.contains(r"\-\-upstream\-ca") && page.contains("RESPGATE_UPSTREAM_CA"), "{page}");
    }

    #[test]
    fn every_shell_completes_options() {
        for shell in [cli::Shell::Bash, cli::Shell::Zsh, cli::Shell::Fish] {
            assert!(completions(shell).contains("upstream-ca"), "{shell:?}");
        }
    }
}
