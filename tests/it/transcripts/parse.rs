//! Reads the transcripts of a Markdown document.

/// Info string of a fenced block that holds a transcript; the label of the terminal follows it.
const INFO: &str = "```console";
const FENCE: &str = "```";
/// A line of the document that presses Ctrl-C.
const INTERRUPT: &str = "^C";

/// The transcripts of one `## ` section, run together in one folder and one network.
#[derive(Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Heading of the section.
    pub title: String,
    pub steps: Vec<Step>,
}

impl Scenario {
    /// Whether the terminals are on several hosts (labels `A1`, `B`) and not on one (labels `1`, `2`).
    pub fn has_hosts(&self) -> bool {
        self.steps.iter().any(|step| step.host().is_some())
    }
}

/// At most one input, and the output that is expected after it.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Label of the terminal.
    pub terminal: String,
    /// Line of the document at which the step begins.
    pub line: usize,
    /// `None` in a block that shows only output.
    pub input: Option<Input>,
    pub output: Vec<Expected>,
}

impl Step {
    /// The host of the terminal; `None` for a terminal of the only host.
    pub fn host(&self) -> Option<char> {
        self.terminal.chars().next().filter(|first| first.is_ascii_alphabetic())
    }
}

/// What the reader of the document enters.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Text typed when the terminal shows `prompt`; every line of it ends in a newline.
    Text { prompt: String, text: String },
    /// Ctrl-C.
    Interrupt,
}

/// A line of output in the document.
#[derive(Debug, PartialEq, Eq)]
pub struct Expected {
    pub line: usize,
    pub text: String,
}

/// The scenarios of a document, in its order.
pub fn scenarios(document: &str) -> Result<Vec<Scenario>, String> {
    let mut found: Vec<Scenario> = Vec::new();
    let mut title = "";
    let mut lines = document.lines().zip(1..);
    while let Some((text, line)) = lines.next() {
        if let Some(heading) = text.strip_prefix("## ") {
            title = heading.trim();
        }
        if !text.starts_with(FENCE) {
            continue;
        }
        let block: Vec<(&str, usize)> = lines.by_ref().take_while(|(text, _)| *text != FENCE).collect();
        let Some(label) = text.strip_prefix(INFO) else { continue };
        let label = label.trim();
        if label.is_empty() || !label.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(format!("line {line}: the block does not name its terminal"));
        }
        if found.last().is_none_or(|scenario| scenario.title != title) {
            found.push(Scenario { title: title.to_owned(), steps: Vec::new() });
        }
        let steps = &mut found.last_mut().unwrap().steps;
        for step in steps_of(label, &block)? {
            let previous = steps.iter().rfind(|previous| previous.terminal == step.terminal);
            if step.input == Some(Input::Interrupt) && previous.is_none_or(|step| step.output.is_empty()) {
                // Without output it is unknown whether the program runs yet.
                return Err(format!("line {}: Ctrl-C without output before it", step.line));
            }
            steps.push(step);
        }
    }
    Ok(found)
}

/// The steps of one block.
fn steps_of(terminal: &str, block: &[(&str, usize)]) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    for &(text, line) in block {
        let step = |input| Step { terminal: terminal.to_owned(), line, input, output: Vec::new() };
        if let Some(more) = continuation(text) {
            match steps.last_mut() {
                Some(Step { input: Some(Input::Text { prompt, text }), output, .. })
                    if prompt == "$" && output.is_empty() =>
                {
                    text.push_str(more);
                    text.push('\n');
                }
                _ => return Err(format!("line {line}: a continuation without a command")),
            }
        } else if text == INTERRUPT {
            steps.push(step(Some(Input::Interrupt)));
        } else if let Some((prompt, typed)) = typed(text) {
            let (prompt, text) = (prompt.to_owned(), format!("{typed}\n"));
            steps.push(step(Some(Input::Text { prompt, text })));
        } else if !text.trim().is_empty() {
            if steps.is_empty() {
                steps.push(step(None));
            }
            let text = text.trim_end().to_owned();
            steps.last_mut().unwrap().output.push(Expected { line, text });
        }
    }
    Ok(steps)
}

/// The rest of a line that continues a shell command.
fn continuation(line: &str) -> Option<&str> {
    if line == ">" { Some("") } else { line.strip_prefix("> ") }
}

/// Prompt and text of a line that is typed: at the shell (`$ `) or at the prompt of a program (`peer1> `).
fn typed(line: &str) -> Option<(&str, &str)> {
    if let Some(text) = line.strip_prefix("$ ") {
        return Some(("$", text));
    }
    let (name, text) = line.split_once("> ")?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    is_name.then(|| (&line[..=name.len()], text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "\
# Title

## First

```console 1
$ for n in 1 2; do
>   echo $n
> done
1
…
peer1> get x
waiting
^C
stopped
```

### Still the first

```
$ not run
```

```console B
a line without input
```

## Second
";

    fn text(prompt: &str, text: &str) -> Option<Input> {
        Some(Input::Text { prompt: prompt.into(), text: text.into() })
    }

    #[test]
    fn blocks_are_split_into_steps() {
        let scenarios = scenarios(DOCUMENT).unwrap();
        assert_eq!(scenarios.len(), 1);
        assert_eq!(scenarios[0].title, "First");
        let steps = &scenarios[0].steps;
        let inputs: Vec<_> = steps.iter().map(|step| (step.line, &step.input)).collect();
        let shell = text("$", "for n in 1 2; do\n  echo $n\ndone\n");
        let expected =
            [(6, &shell), (11, &text("peer1>", "get x\n")), (13, &Some(Input::Interrupt)), (24, &None)];
        assert_eq!(inputs, expected);
        let output: Vec<_> = steps.iter().flat_map(|step| &step.output).map(|line| &*line.text).collect();
        assert_eq!(output, ["1", "…", "waiting", "stopped", "a line without input"]);
        assert_eq!((steps[0].host(), steps[3].host()), (None, Some('B')));
        assert!(scenarios[0].has_hosts());
    }

    #[test]
    fn a_block_without_a_terminal_is_an_error() {
        let error = scenarios("## A\n```console\n$ true\n```\n").unwrap_err();
        assert!(error.starts_with("line 2: "), "{error}");
    }

    #[test]
    fn a_continuation_without_a_command_is_an_error() {
        let error = scenarios("## A\n```console 1\n> true\n```\n").unwrap_err();
        assert!(error.starts_with("line 3: "), "{error}");
    }

    #[test]
    fn an_interrupt_before_any_output_is_an_error() {
        let error = scenarios("## A\n```console 1\n$ sleep 9\n^C\n```\n").unwrap_err();
        assert!(error.starts_with("line 4: "), "{error}");
    }
}
