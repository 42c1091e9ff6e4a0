//! `shmworker completions` and `shmworker man`: what the command line knows of itself, for shells and for `man`.

use super::exit::{self, CliError};
use clap::{Command, ValueEnum};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// What `shmworker completions` was told.
#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell: bash, zsh, fish, elvish, powershell
    #[arg(value_name = "SHELL", value_parser = shell)]
    shell: Shell,
}

/// What `shmworker man` was told.
#[derive(clap::Args)]
pub(crate) struct ManArgs {
    /// Where to write a page for each command, such as ~/.local/share/man/man1; it is made if it is not there
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn shell(text: &str) -> Result<Shell, String> {
    Shell::from_str(text, false).map_err(|_| "it must be bash, zsh, fish, elvish or powershell".to_owned())
}

/// Prints the completions.
///
/// # Errors
/// None so far.
pub(crate) fn completions(args: &CompletionsArgs, definition: Command) -> Result<(), CliError> {
    let mut definition = visible(definition);
    let mut script = Vec::new();
    generate(args.shell, &mut definition, "shmworker", &mut script);
    print(&script);
    Ok(())
}

/// Prints the page of the program, or writes the pages of all commands.
///
/// # Errors
/// The directory can't be made, or a page can't be written.
pub(crate) fn man(args: &ManArgs, definition: Command) -> Result<(), CliError> {
    // The program's name is in each page: pages of the commands say `shmworker run`.
    let mut definition = visible(definition).disable_help_subcommand(true);
    definition.build();
    let Some(dir) = &args.dir else {
        print(&page(definition)?);
        return Ok(());
    };
    let failed = |path: &Path, e: io::Error| {
        CliError::new(exit::FAILURE, format_args!("cannot write '{}': {e}", path.display()))
    };
    fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
    let of_commands = definition.get_subcommands().filter(|c| !c.is_hide_set()).map(|command| {
        let name = format!("shmworker-{}", command.get_name());
        (name.clone(), command.clone().display_name(name).version(crate::VERSION))
    });
    let pages: Vec<_> = of_commands.chain([("shmworker".to_owned(), definition.clone())]).collect();
    for (name, command) in pages {
        let path = dir.join(name + ".1");
        fs::write(&path, page(command)?).map_err(|e| failed(&path, e))?;
    }
    Ok(())
}

fn page(command: Command) -> Result<Vec<u8>, CliError> {
    let mut page = Vec::new();
    let date_less = Man::new(command).manual("shmworker manual");
    date_less.render(&mut page).map_err(|e| CliError::new(exit::FAILURE, format_args!("cannot make a page: {e}")))?;
    Ok(page)
}

/// Without what only tests use.
fn visible(definition: Command) -> Command {
    let (shown, hidden): (Vec<_>, Vec<_>) =
        definition.get_subcommands().cloned().partition(|command| !command.is_hide_set());
    if hidden.is_empty() {
        return definition;
    }
    let mut bare = Command::new("shmworker").version(crate::VERSION).subcommand_required(true);
    if let Some(about) = definition.get_about() {
        bare = bare.about(about.clone());
    }
    bare.args(definition.get_arguments().cloned()).subcommands(shown)
}

/// A reader that has gone away has read enough.
fn print(text: &[u8]) {
    let _ = io::stdout().write_all(text);
}
