//! The face for people and logs: talk goes to stderr a line at a time, the final tables go to stdout.

use super::forecast::totals_in_words;
use super::words::{bytes, counted, dollars, duration, named, replies, thousands};
use super::{Event, NodeSummary, Recheck, Remains, Reporter, RunSummary, State, table};
use cache::{Moved, SharingReport};
use stages::context::Progress;
use stages::llm::MeterReading;
use stages::report::ReportTable;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Between two lines of progress of one node: a tenth of the time it has taken so far, within these bounds.
const PROGRESS_AT_LEAST: Duration = Duration::from_secs(2);
const PROGRESS_AT_MOST: Duration = Duration::from_secs(30);

/// Hits of a recipe with more nodes than this are counted at the end and not told one by one.
const NODES_TOLD: usize = 200;

pub struct PlainReporter {
    colour: bool,
    layout: Mutex<Layout>,
}

#[derive(Default)]
struct Layout {
    /// Width of the column of node names.
    name_width: usize,
    /// Whether a node that was found is told.
    tells_hits: bool,
    last_progress: HashMap<String, Instant>,
}

impl PlainReporter {
    /// Colours where stderr is a terminal and `NO_COLOR` is not set; never the only carrier of a meaning.
    pub fn new() -> PlainReporter {
        let colour =
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        PlainReporter { colour, layout: Mutex::default() }
    }

    fn name(&self, node: &str) -> String {
        format!("{node:<width$}", width = self.layout().name_width)
    }

    fn layout(&self) -> std::sync::MutexGuard<'_, Layout> {
        self.layout.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// `    word  node  text`: one shape for everything that is said about a node.
    fn line(&self, word: &str, colour: &str, node: &str, text: &str) {
        let word = format!("{word:>8}");
        let word = if self.colour { format!("\x1b[{colour}m{word}\x1b[0m") } else { word };
        say(&format!("{word}  {}  {text}", self.name(node)));
    }

    fn is_due(&self, node: &str, seconds: f64) -> bool {
        let mut layout = self.layout();
        let now = Instant::now();
        // The first line comes after a pause too: short nodes need none.
        let last = layout.last_progress.entry(node.to_string()).or_insert(now);
        let pause = Duration::from_secs_f64(seconds / 10.0).clamp(PROGRESS_AT_LEAST, PROGRESS_AT_MOST);
        let due = now.duration_since(*last) >= pause;
        if due {
            *last = now;
        }
        due
    }

    fn settled(&self, summary: &NodeSummary) {
        if summary.state == State::Hit && !self.layout().tells_hits && summary.recheck.is_none() {
            return;
        }
        let colour = match summary.state {
            State::Hit => "2",
            State::Ran => "32",
            State::Failed => "31",
            State::Skipped => "33",
        };
        self.line(summary.state.word(), colour, &summary.node, &describe(summary));
    }
}

impl Default for PlainReporter {
    fn default() -> Self {
        PlainReporter::new()
    }
}

impl Reporter for PlainReporter {
    fn tell(&self, event: &Event) {
        match event {
            Event::Begun { recipe, overrides, nodes } => {
                self.layout().name_width = nodes.iter().map(|name| name.chars().count()).max().unwrap_or(0);
                self.layout().tells_hits = nodes.len() <= NODES_TOLD;
                let bent = if overrides.is_empty() { String::new() } else { format!(" · {}", overrides.join(" ")) };
                say(&format!("{} · {}{bent}", recipe.display(), counted(nodes.len() as u64, "node")));
            }
            Event::Started { node, why, .. } => self.line("run", "36", node, why),
            Event::Progressed { node, progress, meter, seconds } => {
                if self.is_due(node, *seconds) {
                    self.line("", "2", node, &describe_progress(progress, meter, *seconds));
                }
            }
            Event::Warned { node: Some(node), message } => self.line("warning", "33", node, message),
            Event::Warned { node: None, message } => say(&format!(" warning  {message}")),
            Event::Shared { place, report } => tell_shared(place, report),
            Event::Settled(summary) => self.settled(summary),
            Event::Remains(remains) => tell_remains(remains),
            Event::Ended(summary) => end(summary),
        }
    }
}

/// `3 results, 120 replies, 1.4 MB`; nothing for nothing.
fn describe_moved(moved: &Moved) -> Option<String> {
    let results = (moved.manifests > 0).then(|| counted(moved.manifests, "result"));
    let replies = (moved.replies > 0).then(|| replies(moved.replies));
    let size = (moved.bytes > 0).then(|| bytes(moved.bytes));
    let parts: Vec<String> = results.into_iter().chain(replies).chain(size).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn tell_remains(remains: &Remains) {
    let (spent, budget) = (dollars(remains.spent_usd), dollars(remains.budget_usd));
    say(&format!("budget reached: {spent} of {budget} are spent; every reply is kept"));
    let rows = counted(remains.rows, "row");
    say(&format!("left: {}, about {rows} to ask about", named(&remains.nodes)));
    totals_in_words(remains.totals).iter().for_each(|line| say(line));
    say(&format!("go on with: {}", remains.command));
}

fn tell_shared(place: &str, report: &SharingReport) {
    let ways = [("fetched", "from", &report.fetched), ("sent", "to", &report.sent)];
    for (done, way, moved) in ways {
        if let Some(what) = describe_moved(moved) {
            say(&format!("{done} {what} {way} {place}"));
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn describe(summary: &NodeSummary) -> String {
    let mut parts: Vec<String> = summary.rows.iter().map(|&rows| counted(rows, "row")).collect();
    if summary.state == State::Ran {
        parts.push(duration(summary.seconds));
    }
    if summary.calls + summary.calls_reused > 0 {
        parts.push(describe_calls(summary.calls, summary.calls_reused));
    }
    if summary.cost_usd > 0.0 {
        parts.push(dollars(summary.cost_usd));
    }
    if summary.recheck == Some(Recheck::Same) {
        parts.push(format!("rechecked: same ({})", duration(summary.seconds)));
    }
    parts.extend(summary.labels.iter().map(|label| format!("[{label}]")));
    if matches!(summary.state, State::Failed | State::Skipped) {
        parts.push(summary.why.clone());
    }
    parts.join(" · ")
}

fn describe_calls(calls: u64, calls_reused: u64) -> String {
    match calls_reused {
        0 => counted(calls, "call"),
        reused => format!("{} ({} replies found)", counted(calls, "call"), thousands(reused)),
    }
}

fn describe_progress(progress: &Progress, meter: &MeterReading, seconds: f64) -> String {
    let mut parts = vec![match progress.total {
        0 => format!("{} {}", thousands(progress.done), progress.unit),
        total => format!("{} of {} {}", thousands(progress.done), thousands(total), progress.unit),
    }];
    let rate = progress.done as f64 / seconds.max(1e-3);
    if rate > 0.0 {
        parts.push(if rate >= 10.0 { format!("{}/s", thousands(rate as u64)) } else { format!("{rate:.2}/s") });
        if progress.total > progress.done {
            parts.push(format!("{} left", duration((progress.total - progress.done) as f64 / rate)));
        }
    }
    if !progress.note.is_empty() {
        parts.push(progress.note.clone());
    }
    if meter.cost_usd > 0.0 {
        parts.push(format!("{} spent", dollars(meter.cost_usd)));
    }
    parts.join(" · ")
}

fn end(summary: &RunSummary) {
    let states = [State::Hit, State::Ran, State::Failed, State::Skipped];
    let counts = states.iter().map(|&state| (summary.count(state), state.word()));
    let counts: Vec<String> =
        counts.filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    let calls = describe_calls(summary.total(|node| node.calls), summary.total(|node| node.calls_reused));
    let cost = dollars(summary.total(|node| node.cost_usd));
    let word = if summary.ok { "done" } else { "not done" };
    say(&format!("{word} · {} · {calls} · {cost} · {}", counts.join(", "), duration(summary.seconds)));
    print_headlines(summary);
}

/// The tables that the recipe is run for, each with the labels of what it was made from.
fn print_headlines(summary: &RunSummary) {
    let mut stdout = std::io::stdout().lock();
    for node in &summary.nodes {
        for table in node.report.tables.iter().filter(|table| table.headline) {
            let _ = writeln!(stdout, "\n{}", headline(node, table));
        }
    }
}

fn headline(node: &NodeSummary, table: &ReportTable) -> String {
    let labels: String = node.labels.iter().map(|label| format!(" [{label}]")).collect();
    let lines = table::lines(&table.columns, &table.rows).join("\n");
    format!("{} · {}{labels}\n{lines}", node.node, table.title)
}
