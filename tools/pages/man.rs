//! Man pages of a program and of its subcommands.

use clap::Command;
use clap_mangen::Man;
use shoal::cli::{exit, help};
use std::io::{self, Write};

/// The pages of a program and its subcommands: name of the page, and its text.
pub(crate) fn pages(program: &Command, prefix: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let name = format!("{prefix}{}", program.get_name());
    let mut pages = vec![(name.clone(), page(program, &name, program.get_name(), &name)?)];
    for subcommand in program.get_subcommands() {
        let page_name = format!("{name}-{}", subcommand.get_name());
        let (own, typed) = (program.get_name(), subcommand.get_name());
        let page = page(subcommand, &page_name, &format!("{own} {typed}"), &format!("{name} {typed}"))?;
        pages.push((page_name, page));
    }
    Ok(pages)
}

/// The page of a command. `key` names its examples; `typed` is the command as a user types it.
fn page(command: &Command, page_name: &str, key: &str, typed: &str) -> io::Result<Vec<u8>> {
    let about = command.get_about().map(|about| about.to_string()).unwrap_or_default();
    let first = about.split_once(". ").map_or(about.trim_end_matches('.'), |(first, _)| first).to_owned();
    let command =
        command.clone().name(page_name.to_owned()).bin_name(typed).version(env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone().about(first).long_about(about)).manual("shoal").date("");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    out.extend(options(&man)?);
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    writeln!(out, ".SH \"EXIT STATUS\"")?;
    for row in exit::HELP_TABLE.lines().skip(1) {
        let (code, meaning) = row.split_at(4);
        writeln!(out, ".TP\n{}\n{}", code.trim(), escaped(meaning.trim()))?;
    }
    writeln!(
        out,
        ".SH ENVIRONMENT\nA setting that is not given as a flag is taken from the variable that its description names. \
         An empty variable counts as not set."
    )?;
    let examples = help::examples(key);
    if !examples.is_empty() {
        writeln!(out, ".SH EXAMPLES")?;
    }
    let program = key.split(' ').next().unwrap_or_default();
    let installed = typed.split(' ').next().unwrap_or_default();
    for (line, effect) in examples {
        let line = line.strip_prefix(program).unwrap_or(line);
        writeln!(
            out,
            "{}:\n.PP\n.nf\n.RS\n{}\n.RE\n.fi\n.PP",
            escaped(effect),
            escaped(&format!("{installed}{line}"))
        )?;
    }
    Ok(out)
}

/// The flags in one section: each heading of the help is the title of a part of it.
fn options(man: &Man) -> io::Result<Vec<u8>> {
    let mut parts = Vec::new();
    man.render_options_section(&mut parts)?;
    let parts = String::from_utf8_lossy(&parts).into_owned();
    let mut text = ".SH OPTIONS\n".to_owned();
    for line in parts.lines() {
        match line.strip_prefix(".SH ") {
            Some("OPTIONS") => {}
            Some(heading) => text += &format!(".SS {}{}\n", &heading[..1], heading[1..].to_lowercase()),
            None => text += &format!("{line}\n"),
        }
    }
    Ok(text.into_bytes())
}

/// A text as roff reads it.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}
