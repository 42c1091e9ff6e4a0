//! `shmworker.toml`: flags that need not be typed each time. Its tables are commands, its keys their long flags.
//!
//! What it says is put into the command line, behind the command, where neither a flag nor the environment says otherwise; so one
//! parser judges both, and a value in the file means what it means on the command line.

use super::{
    args::{command_at, explain},
    exit::{CONFIG, CliError},
};
use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use nix::unistd::geteuid;
use std::{ffi::OsString, fmt, fs, io, os::unix::fs::MetadataExt, path::PathBuf};
use toml::{Table, Value};

/// Commands that only print, or have their flags from another, and shall not fail for a file.
const WITHOUT: [&str; 4] = ["completions", "help", "man", "successor"];

/// Variables of Temporal's that win over the file, by the flag that says the same.
const VARIABLES: [(&str, &[&str]); 13] = [
    ("address", &["TEMPORAL_ADDRESS"]),
    ("namespace", &["TEMPORAL_NAMESPACE"]),
    ("profile", &["TEMPORAL_PROFILE"]),
    ("config-file", &["TEMPORAL_CONFIG_FILE"]),
    ("api-key", &["TEMPORAL_API_KEY"]),
    ("tls", &["TEMPORAL_TLS"]),
    ("tls-ca", &["TEMPORAL_TLS_SERVER_CA_CERT_PATH", "TEMPORAL_TLS_SERVER_CA_CERT_DATA"]),
    ("tls-cert", &["TEMPORAL_TLS_CLIENT_CERT_PATH", "TEMPORAL_TLS_CLIENT_CERT_DATA"]),
    ("tls-key", &["TEMPORAL_TLS_CLIENT_KEY_PATH", "TEMPORAL_TLS_CLIENT_KEY_DATA"]),
    ("tls-server-name", &["TEMPORAL_TLS_SERVER_NAME"]),
    ("source", &["SHMWORKER_SOURCE"]),
    ("source-header", &["SHMWORKER_SOURCE_HEADER"]),
    ("source-ca", &["SHMWORKER_SOURCE_CA"]),
];

/// The command line, with what the config file adds to it. One that is wrong, or asks for help, stays as it is.
///
/// # Errors
/// The file can't be read, or says what no command line could say.
pub(super) fn extended(definition: &Command, argv: Vec<OsString>) -> Result<Vec<OsString>, CliError> {
    let Some(at) = command_at(&argv) else { return Ok(argv) };
    // What is missing may stand in the file.
    let Ok(matches) = definition.clone().ignore_errors(true).try_get_matches_from(&argv) else { return Ok(argv) };
    let Some((name, typed)) = matches.subcommand().filter(|(name, _)| !WITHOUT.contains(name)) else {
        return Ok(argv);
    };
    let given = matches.get_one::<PathBuf>("config").or_else(|| typed.get_one("config"));
    let Some(path) = find(given)? else { return Ok(argv) };
    let file = File::read(definition, path)?;
    let mut line = argv;
    line.splice(at + 1..at + 1, file.words(name, typed));
    Ok(line)
}

/// The file that is named, else the first that is there.
fn find(given: Option<&PathBuf>) -> Result<Option<PathBuf>, CliError> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = given.cloned().or_else(|| var("SHMWORKER_CONFIG")) {
        return Ok(Some(named));
    }
    let here = PathBuf::from("shmworker.toml");
    if let Ok(meta) = fs::metadata(&here) {
        // In a directory where others write, they would choose what is loaded here.
        let (owner, me) = (meta.uid(), geteuid().as_raw());
        if owner != me && owner != 0 {
            let why = format_args!(
                "'./shmworker.toml' belongs to another user (uid {owner}): name it with --config to use it all the same"
            );
            return Err(CliError::new(CONFIG, why));
        }
        return Ok(Some(here));
    }
    let home = || var("HOME").map(|home| home.join(".config"));
    let of_user = var("XDG_CONFIG_HOME").filter(|dir| dir.is_absolute()).or_else(home);
    Ok(of_user.map(|dir| dir.join("shmworker/config.toml")).filter(|path| path.exists()))
}

struct File<'d> {
    definition: &'d Command,
    path: PathBuf,
    tables: Vec<(&'d Command, Table)>,
}

impl<'d> File<'d> {
    fn read(definition: &'d Command, path: PathBuf) -> Result<File<'d>, CliError> {
        let failed = |what: &str, e: &dyn fmt::Display| {
            CliError::new(CONFIG, format_args!("cannot {what} config file '{}': {e}", path.display()))
        };
        let text = fs::read_to_string(&path).map_err(|e: io::Error| failed("read", &e))?;
        let content: Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            failed("understand", &format_args!("line {line}: {}", e.message().replace('\n', ", ")))
        })?;
        let mut file = File { definition, path, tables: Vec::new() };
        for (name, value) in content {
            let command = definition.get_subcommands().find(|c| c.get_name() == name && !c.is_hide_set());
            let command = command.filter(|_| !WITHOUT.contains(&&*name));
            match (command, value) {
                (Some(command), Value::Table(table)) => {
                    file.check(command, &table)?;
                    file.tables.push((command, table));
                }
                (_, Value::Table(_)) => {
                    let near = file.suggestion(&[&name], ContextKind::SuggestedSubcommand);
                    let remedy = near.map_or("see 'shmworker --help'".to_owned(), |s| format!("did you mean '[{s}]'?"));
                    return Err(file.wrong(format_args!("no command '[{name}]': {remedy}")));
                }
                _ => {
                    let why =
                        format_args!("'{name}' stands outside a table: put it below its command, such as '[run]'");
                    return Err(file.wrong(why));
                }
            }
        }
        Ok(file)
    }

    /// What clap would rather have had.
    fn suggestion(&self, words: &[&str], kind: ContextKind) -> Option<String> {
        let error = self.definition.clone().try_get_matches_from([&["shmworker"], words].concat()).err()?;
        match error.get(kind)? {
            ContextValue::String(text) => Some(text.clone()),
            // In rising order of likeness.
            ContextValue::Strings(texts) => texts.last().cloned(),
            _ => None,
        }
    }

    /// Each command's flags are judged, not only those of the one that runs.
    fn check(&self, command: &Command, table: &Table) -> Result<(), CliError> {
        let name = command.get_name();
        let mut line: Vec<OsString> = vec!["shmworker".into(), name.into()];
        for (key, value) in table {
            let Some(arg) = flag(command, key) else {
                let near = self.suggestion(&[name, &format!("--{key}")], ContextKind::SuggestedArg);
                let remedy = near
                    .as_deref()
                    .and_then(|s| s.strip_prefix("--"))
                    .map_or_else(|| format!("see 'shmworker {name} --help'"), |near| format!("did you mean '{near}'?"));
                return Err(self.wrong(format_args!("unknown key '{key}' in [{name}]: {remedy}")));
            };
            line.extend(
                spelled(arg, key, value).map_err(|why| self.wrong(format_args!("'{key}' in [{name}]: {why}")))?,
            );
        }
        match self.definition.clone().try_get_matches_from(&line) {
            // The rest may be typed.
            Err(e) if e.kind() == ErrorKind::MissingRequiredArgument => Ok(()),
            Err(e) => Err(self.wrong(format_args!("[{name}]: {}", explain(&e, &line)))),
            Ok(_) => Ok(()),
        }
    }

    /// What the file adds to a line of this command on which `typed` stands.
    fn words(&self, name: &str, typed: &ArgMatches) -> Vec<OsString> {
        let Some((command, table)) = self.tables.iter().find(|(c, _)| c.get_name() == name) else { return Vec::new() };
        let is_typed = |arg: &Arg| typed.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let beaten = |arg: &Arg| {
            let excluded = command.get_arguments().filter(|other| {
                let either = |a, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|c| c.get_id() == b.get_id());
                other.get_id() != arg.get_id() && (either(arg, other) || either(other, arg))
            });
            excluded.chain([arg]).any(is_typed)
        };
        let mut words = Vec::new();
        for (key, value) in table {
            if let Some(arg) = flag(command, key)
                && !beaten(arg)
                && !is_in_environment(key)
            {
                words.extend(spelled(arg, key, value).unwrap_or_default());
            }
        }
        words
    }

    fn wrong(&self, why: impl fmt::Display) -> CliError {
        CliError::new(CONFIG, format_args!("config file '{}': {why}", self.path.display()))
    }
}

fn is_in_environment(key: &str) -> bool {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    VARIABLES.iter().any(|(flag, names)| *flag == key && names.iter().any(is_set))
}

/// The flag of which this is the long name.
fn flag<'c>(command: &'c Command, key: &str) -> Option<&'c Arg> {
    command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(key) && !arg.is_hide_set() && !["config", "help", "version"].contains(&key))
}

/// As it would be typed; nothing for a flag that is off.
fn spelled(arg: &Arg, key: &str, value: &Value) -> Result<Vec<OsString>, String> {
    let word = |value: &Value| match value {
        Value::String(text) => Ok(format!("--{key}={text}")),
        Value::Integer(number) => Ok(format!("--{key}={number}")),
        Value::Float(number) => Ok(format!("--{key}={number}")),
        _ => Err("it must be a text or a number".to_owned()),
    };
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => Ok(vec![format!("--{key}").into()]),
        (ArgAction::SetTrue, Value::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => Err("it must be true or false".to_owned()),
        (ArgAction::Append, Value::Array(values)) => values.iter().map(|v| word(v).map(OsString::from)).collect(),
        _ => Ok(vec![word(value)?.into()]),
    }
}
