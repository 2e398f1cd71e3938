//! Settings from environment variables: `SHOAL_<PROGRAM>_<FLAG>` for each setting, and `SHOAL_<FLAG>` for those that mean
//! the same in all programs.
//!
//! Precedence: flag, variable of the program, common variable, default. A variable that contradicts a flag of the command
//! line is ignored, like one for the same flag. Invariant: an action, such as `--overwrite`, has no variable, so that
//! nothing is deleted or replaced because of a forgotten setting.

use super::console::print_error;
use crate::content::similar_names::similar;
use clap::builder::{BoolishValueParser, StyledStr};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Command};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};

/// Begin of the name of each variable.
const PREFIX: &str = "SHOAL_";
/// The programs.
const PROGRAMS: [&str; 5] = ["tracker", "manager", "seeder", "leecher", "client"];
/// Settings with the same meaning in all programs.
const COMMON: [&str; 4] = ["tracker", "manager", "log-file", "no-discovery"];
/// Flags that are no settings: they select what is done, or permit it.
const ACTIONS: [&str; 17] = [
    "all",
    "as",
    "clean",
    "dry-run",
    "from",
    "get",
    "help",
    "id",
    "list",
    "long",
    "new-store",
    "overwrite",
    "parts",
    "rebuild",
    "split",
    "version",
    "yes",
];
/// Variables that the programs set for the command of `--on-complete`.
const OF_COMMANDS: [&str; 3] = ["SHOAL_PATH", "SHOAL_NAME", "SHOAL_ID"];
/// Begin of the names that are reserved for keys.
const KEYS: &str = "SHOAL_KEY";

/// A variable that is set and used: the name of the subcommand if it is for that, the id of the flag, the flag as usage
/// errors show it, and the variable.
pub(super) struct Used {
    subcommand: Option<String>,
    id: clap::Id,
    flag: String,
    variable: String,
}

/// The variable of a flag (`log-file` or `log_file`) of a program.
pub(super) fn variable(program: &str, flag: &str) -> String {
    format!("{PREFIX}{}_{}", program.to_uppercase(), flag.replace('-', "_").to_uppercase())
}

/// The variables of a flag, in the order of their precedence; none for an action.
fn variables(program: &str, flag: &str) -> Vec<String> {
    let flag = flag.replace('_', "-");
    if ACTIONS.contains(&flag.as_str()) {
        return Vec::new();
    }
    let common =
        COMMON.contains(&flag.as_str()).then(|| PREFIX.to_owned() + &flag.replace('-', "_").to_uppercase());
    [variable(program, &flag)].into_iter().chain(common).collect()
}

/// The variables of an argument, also those of its visible aliases.
fn variables_of(arg: &Arg, program: &str) -> Vec<String> {
    let aliases = arg.get_visible_aliases().unwrap_or_default();
    arg.get_long().into_iter().chain(aliases).flat_map(|flag| variables(program, flag)).collect()
}

/// A flag whose help names its variables.
pub(super) fn shown(arg: Arg, program: &str) -> Arg {
    let variables = arg.get_long().map(|flag| variables(program, flag)).unwrap_or_default();
    match (arg.get_help(), variables.is_empty()) {
        (Some(help), false) => {
            let help = format!("{help} [env: {}]", variables.join(", "));
            arg.help(help).hide_env(true)
        }
        _ => arg,
    }
}

/// Whether a variable asks for JSON.
pub(super) fn asks_for_json(program: &str) -> bool {
    let value = std::env::var(variable(program, "json")).unwrap_or_default().to_lowercase();
    ["1", "true", "yes", "on", "y", "t"].contains(&value.as_str())
}

/// A variable that is set to more than nothing.
fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// The variables that take effect with these arguments, of which the first is the program.
pub(super) fn used(command: Command, args: &[OsString]) -> Vec<Used> {
    used_with(command, args, is_set)
}

fn used_with(mut command: Command, args: &[OsString], is_set: impl Fn(&str) -> bool) -> Vec<Used> {
    let program = command.get_name().to_owned();
    // Errors of the arguments are reported later, by the parse with the variables.
    let Ok(matches) = command.clone().ignore_errors(true).try_get_matches_from(args) else {
        return Vec::new();
    };
    command.build();
    let (subcommand, command, matches) = match matches.subcommand() {
        None => (None, &command, &matches),
        Some((name, matches)) => match command.find_subcommand(name) {
            Some(command) => (Some(name.to_owned()), command, matches),
            None => return Vec::new(),
        },
    };
    let is_given = |arg: &&Arg| {
        let source =
            matches.ids().any(|id| id == arg.get_id()).then(|| matches.value_source(arg.get_id().as_str()));
        source.flatten() == Some(ValueSource::CommandLine)
    };
    let given: Vec<&Arg> = command.get_arguments().filter(is_given).collect();
    let contradicts = |arg: &Arg| {
        let conflicts = |one: &Arg, other: &Arg| {
            command.get_arg_conflicts_with(one).iter().any(|conflict| conflict.get_id() == other.get_id())
        };
        given
            .iter()
            .any(|given| given.get_id() == arg.get_id() || conflicts(given, arg) || conflicts(arg, given))
    };
    let candidates = command.get_arguments().filter(|arg| !contradicts(arg));
    candidates
        .filter_map(|arg| {
            let variable = variables_of(arg, &program).into_iter().find(|variable| is_set(variable))?;
            let (id, flag) = (arg.get_id().clone(), arg.to_string());
            Some(Used { subcommand: subcommand.clone(), id, flag, variable })
        })
        .collect()
}

/// The command, which takes the values of variables for flags that are not given.
pub(super) fn with_values(command: Command, used: &[Used]) -> Command {
    let Some(first) = used.first() else { return command };
    let variables: HashMap<_, _> = used.iter().map(|used| (&used.id, &used.variable)).collect();
    let with_value = |arg: Arg| match variables.get(arg.get_id()) {
        None => arg,
        Some(variable) => {
            let arg = arg.env(OsString::from(variable));
            match arg.get_action() {
                ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
                _ => arg,
            }
        }
    };
    match &first.subcommand {
        None => command.mut_args(with_value),
        Some(name) => command.mut_subcommand(name, |subcommand| subcommand.mut_args(with_value)),
    }
}

/// A usage error about the value of a variable, which names the variable.
pub(super) fn explained(mut error: clap::Error, used: &[Used]) -> clap::Error {
    let about = |error: &clap::Error, flag: &str| matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(arg)) if arg == flag);
    if let Some(Used { flag, variable, .. }) = used.iter().find(|used| about(&error, &used.flag)) {
        let tip: StyledStr = format!("{flag} is set by the environment variable {variable}").into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

/// Warns about variables that no program knows, as far as this one can tell, and names similar ones.
pub(super) fn warn(command: &Command) {
    let set = std::env::vars_os().map(|(name, _)| name);
    warnings(command, set).iter().for_each(|warning| print_error(warning));
}

fn warnings(command: &Command, set: impl Iterator<Item = OsString>) -> Vec<String> {
    let program = command.get_name();
    let own = variable(program, "");
    let others = PROGRAMS.iter().filter(|other| **other != program).map(|other| variable(other, ""));
    let others: Vec<String> = others.collect();
    let arguments = command.get_subcommands().chain([command]).flat_map(Command::get_arguments);
    let known: BTreeSet<String> = arguments.flat_map(|arg| variables_of(arg, program)).collect();
    let common: Vec<String> = COMMON.iter().filter_map(|flag| variables(program, flag).pop()).collect();
    let is_known = |name: &str| {
        let is_reserved = name.starts_with(KEYS) || OF_COMMANDS.contains(&name);
        let is_common = common.iter().any(|common| common == name);
        let is_of_another = !name.starts_with(&own) && others.iter().any(|other| name.starts_with(other));
        is_reserved || is_common || is_of_another || known.contains(name)
    };
    let unknown = set.filter_map(|name| name.to_str().map(str::to_owned));
    let unknown = unknown.filter(|name| name.starts_with(PREFIX) && !is_known(name));
    let mut warnings: Vec<String> = unknown
        .map(|name| {
            let flag = |name: &str| name.trim_start_matches(&own).trim_start_matches(PREFIX).to_owned();
            let candidates: Vec<(String, &String)> =
                known.iter().chain(&common).map(|known| (flag(known), known)).collect();
            let nearest = similar(&flag(&name), candidates.iter().map(|(flag, _)| flag.as_str()));
            let nearest = nearest.first().and_then(|near| candidates.iter().find(|(flag, _)| flag == near));
            let advice = match nearest {
                Some((_, known)) => format!("; did you mean {known}?"),
                None => format!("; {program} --help lists the variables"),
            };
            format!("warning: unknown environment variable {}{advice}", OsStr::new(&name).display())
        })
        .collect();
    warnings.sort();
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(name = "leecher")]
    struct Example {
        #[arg(long, conflicts_with = "tracker")]
        from: Option<String>,
        #[arg(long)]
        tracker: Option<String>,
        #[arg(long = "transfer_port", visible_alias = "port")]
        transfer_port: Option<u16>,
        #[arg(long, conflicts_with = "linger")]
        no_serve: bool,
        #[arg(long)]
        linger: Option<u32>,
        #[arg(long)]
        overwrite: bool,
    }

    fn command() -> Command {
        crate::cli::args::command::<Example>()
    }

    fn variables_used(args: &str, set: &[&str]) -> Vec<String> {
        let args: Vec<OsString> = args.split(' ').map(OsString::from).collect();
        used_with(command(), &args, |name| set.contains(&name))
            .into_iter()
            .map(|used| used.variable)
            .collect()
    }

    #[test]
    fn a_flag_precedes_the_variable_of_the_program_and_that_the_common_one() {
        let both = ["SHOAL_TRACKER", "SHOAL_LEECHER_TRACKER"];
        assert_eq!(variables_used("leecher", &both), ["SHOAL_LEECHER_TRACKER"]);
        assert_eq!(variables_used("leecher", &both[..1]), ["SHOAL_TRACKER"]);
        assert_eq!(variables_used("leecher --tracker x", &both), [""; 0]);
    }

    #[test]
    fn a_variable_that_contradicts_a_given_flag_is_ignored() {
        assert_eq!(variables_used("leecher --from x", &["SHOAL_TRACKER"]), [""; 0]);
        assert_eq!(variables_used("leecher --linger 5", &["SHOAL_LEECHER_NO_SERVE"]), [""; 0]);
        assert_eq!(variables_used("leecher --no-serve", &["SHOAL_LEECHER_LINGER"]), [""; 0]);
    }

    #[test]
    fn each_spelling_of_a_flag_has_a_variable_and_an_action_has_none() {
        assert_eq!(
            variables_used("leecher", &["SHOAL_LEECHER_TRANSFER_PORT"]),
            ["SHOAL_LEECHER_TRANSFER_PORT"]
        );
        assert_eq!(variables_used("leecher", &["SHOAL_LEECHER_PORT"]), ["SHOAL_LEECHER_PORT"]);
        assert_eq!(variables_used("leecher", &["SHOAL_LEECHER_OVERWRITE", "SHOAL_LEECHER_FROM"]), [""; 0]);
    }

    #[test]
    fn unknown_variables_are_warned_of_with_a_suggestion() {
        let warned = |name: &str| warnings(&command(), [OsString::from(name)].into_iter()).pop();
        for known in [
            "SHOAL_LEECHER_TRACKER",
            "SHOAL_LOG_FILE",
            "SHOAL_MANAGER",
            "SHOAL_SEEDER_ANYTHING",
            "SHOAL_TRACKER_STATE",
            "SHOAL_KEY_FILE",
            "SHOAL_PATH",
            "PATH",
        ] {
            assert_eq!(warned(known), None, "{known}");
        }
        let text = warned("SHOAL_LEECHER_TRAKER").unwrap();
        assert!(text.ends_with("SHOAL_LEECHER_TRAKER; did you mean SHOAL_LEECHER_TRACKER?"), "{text}");
        let text = warned("SHOAL_LOGFILE").unwrap();
        assert!(text.ends_with("did you mean SHOAL_LOG_FILE?"), "{text}");
        let text = warned("SHOAL_LEECHER_OVERWRITE").unwrap();
        assert!(text.contains("unknown environment variable SHOAL_LEECHER_OVERWRITE"), "{text}");
    }
}
