//! A story for people: long texts are folded unless they are wanted whole.

use crate::report::cell::shown;
use crate::report::paint::{Colour, Paint};
use crate::report::words::{ago, counted, dollars, thousands};
use crate::trace::{Change, Numbered, Step, Story, numbered};
use cache::now_seconds;

/// Of a longer text these lines are shown: instructions stand first, what they are about last.
const FIRST_LINES: usize = 2;
const LAST_LINES: usize = 4;
const KEY_DIGITS: usize = 10;

pub fn text(story: &Story, asked: &str, is_full: bool) -> String {
    Page { paint: Paint::of_stdout(), is_full, lines: Vec::new() }.story(story, asked)
}

struct Page {
    paint: Paint,
    is_full: bool,
    lines: Vec<String>,
}

impl Page {
    fn story(mut self, story: &Story, asked: &str) -> String {
        let calls = numbered(story);
        self.lines.push(format!("row {} of `{asked}`: {}", story.row_id, summary(&calls)));
        if let Some(lost) = &story.lost {
            self.lines.push(self.paint.text(Colour::Yellow, &format!("it begins late: {lost}")));
        }
        for (step, calls) in story.steps.iter().zip(&calls) {
            self.step(step, calls);
        }
        if let Some(end) = &story.end {
            self.lines.extend([String::new(), self.paint.text(Colour::Red, end)]);
        }
        self.lines.join("\n") + "\n"
    }

    fn step(&mut self, step: &Step, calls: &[Numbered]) {
        let (node, made) = (step.work.node, &step.work.manifest.provenance);
        let labels: String = made.labels.iter().map(|label| format!(" [{label}]")).collect();
        let key = &step.work.manifest.key.to_string()[..KEY_DIGITS];
        let name = self.paint.text(Colour::Bold, &node.name);
        let made = self.paint.text(Colour::Dim, &format!("@{key}, made {}", ago(made.finished_at, now_seconds())));
        self.lines.extend([String::new(), format!("{name} · {}{labels}  {made}", node.kind.name)]);
        if let Some(stale) = &step.work.stale {
            let told = format!("  an earlier generation; the recipe as it stands has another: {stale}");
            self.lines.push(self.paint.text(Colour::Yellow, &told));
        }
        calls.iter().for_each(|call| self.call(call));
        if let Some(remark) = &step.remark {
            self.lines.push(self.paint.text(Colour::Yellow, &format!("  {remark}")));
        }
        self.renamed(step);
        for (_, rows) in &step.after {
            let changes = step.changes(rows);
            if step.after.len() > 1 {
                self.lines.push(format!("  {}", rows.rows[0].id));
            }
            changes.iter().for_each(|change| self.change(change));
        }
        self.outcome(step);
    }

    fn renamed(&mut self, step: &Step) {
        if let (Some(before), [(_, after)]) = (&step.before, &*step.after)
            && before.rows[0].id != after.rows[0].id
        {
            self.lines.push(format!("  row {} is from now on row {}", before.rows[0].id, after.rows[0].id));
        }
    }

    fn outcome(&mut self, step: &Step) {
        let is_dropped = step.after.iter().any(|(output, _)| output == "dropped");
        let (colour, word) = if is_dropped { (Colour::Red, "dropped: ") } else { (Colour::Green, "") };
        let is_silent = step.outcome.is_none() && step.calls.is_empty() && step.before.is_some();
        if let Some(outcome) = step.outcome.as_deref().or(is_silent.then_some("went on")) {
            self.lines.push(self.paint.text(colour, &format!("  → {word}{outcome}")));
        }
    }

    fn call(&mut self, one: &Numbered) {
        self.lines.push(headline(one));
        if one.is_again {
            return;
        }
        for message in &one.call.request.messages {
            self.quoted("> ", Some(Colour::Dim), &message.content);
        }
        let Some(reply) = &one.call.reply else {
            self.lines.push(self.paint.text(Colour::Yellow, "    its reply is no longer kept"));
            return;
        };
        if let Some(reasoning) = &reply.reasoning {
            self.quoted("~ ", Some(Colour::Dim), reasoning);
        }
        self.quoted("< ", None, &reply.text);
        if let Some(reason) = &one.call.unusable {
            self.lines.push(self.paint.text(Colour::Red, &format!("    could not be used: {reason}")));
        }
    }

    fn change(&mut self, change: &Change) {
        let new = shown(change.new);
        let old = change.old.map(shown);
        let room = self.paint.width().saturating_sub(change.column.chars().count() + 8);
        let short = |text: &str| !text.contains('\n') && text.chars().count() <= room / 2;
        match old {
            Some(old) if short(&old) && short(&new) => self.lines.push(format!("  {}: {old} → {new}", change.column)),
            None if !new.contains('\n') && (self.is_full || new.chars().count() <= room) => {
                self.lines.push(format!("  {}: {new}", change.column));
            }
            old => {
                let word = if old.is_some() { " (changed)" } else { "" };
                self.lines.push(format!("  {}{word}:", change.column));
                self.quoted("", None, &new);
            }
        }
    }

    /// A text below its headline, folded unless it is wanted whole.
    fn quoted(&mut self, sign: &str, colour: Option<Colour>, text: &str) {
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let hidden = if self.is_full { 0 } else { lines.len().saturating_sub(FIRST_LINES + LAST_LINES + 1) };
        let paint = |line: String| colour.map_or(line.clone(), |colour| self.paint.text(colour, &line));
        let mut told = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            if hidden > 0 && at == FIRST_LINES {
                let more = counted(hidden as u64 + 1, "more line");
                told.push(paint(format!("    {sign}… {more}; `--full` shows them")));
            }
            if hidden == 0 || at < FIRST_LINES || at >= lines.len() - LAST_LINES {
                told.push(paint(format!("    {sign}{}", self.cut(line, sign.len() + 4))));
            }
        }
        self.lines.extend(told);
    }

    fn cut(&self, line: &str, indent: usize) -> String {
        let room = self.paint.width().saturating_sub(indent).max(20);
        match self.is_full || line.chars().count() <= room {
            true => line.to_string(),
            false => line.chars().take(room - 1).chain(['…']).collect(),
        }
    }
}

/// What the calls of all steps came to.
fn summary(calls: &[Vec<Numbered>]) -> String {
    let paid: Vec<&Numbered> = calls.iter().flatten().filter(|one| !one.is_again).collect();
    let usage = |one: &&&Numbered| one.call.reply.as_ref().map(|reply| reply.usage).unwrap_or_default();
    let tokens_in = paid.iter().map(|one| usage(&one).tokens_in).sum();
    let tokens_out = paid.iter().map(|one| usage(&one).tokens_out).sum();
    let cost_usd: f64 = paid.iter().filter_map(|one| one.call.cost_usd).sum();
    let has_price = !paid.is_empty() && paid.iter().all(|one| one.call.cost_usd.is_some());
    let cost = if has_price { format!(", {}", dollars(cost_usd)) } else { String::new() };
    let tokens = format!("{} → {} tokens", thousands(tokens_in), thousands(tokens_out));
    let tokens = if paid.is_empty() { String::new() } else { format!(", {tokens}{cost}") };
    format!("{}, {}{tokens}", counted(calls.len() as u64, "step"), counted(paid.len() as u64, "call"))
}

/// `  3 search · teacher · round 1 of attempt 2, backtrack · ask 2 · 812 → 140 tokens, $0.0034 · served by …`
fn headline(one: &Numbered) -> String {
    let (call, place) = (one.call, &one.place);
    let question = call.request.task.as_ref().map_or("question", |task| task.name);
    let mut parts = vec![format!("{question} · {}", call.model)];
    match (place.attempt, place.round) {
        (Some(attempt), Some(round)) => parts.push(format!("round {round} of attempt {attempt}")),
        (Some(attempt), None) => parts.push(format!("attempt {attempt}")),
        (None, _) if call.request.sample > 0 => parts.push(format!("sample {}", call.request.sample)),
        (None, _) => {}
    }
    // The judge sees a conclusion, not the strategy that led to it.
    parts.extend(place.strategy.filter(|_| question == "search").map(|strategy| format!("by {strategy}")));
    if call.request.ask > 0 {
        parts.push(format!("asked again ({})", call.request.ask + 1));
    }
    if one.is_again {
        parts.push(format!("the reply of call {} again", one.number));
    } else if let Some(reply) = &call.reply {
        let cost = call.cost_usd.filter(|cost| *cost > 0.0).map(|cost| format!(", {}", dollars(cost)));
        let (tokens_in, tokens_out) = (thousands(reply.usage.tokens_in), thousands(reply.usage.tokens_out));
        parts.push(format!("{tokens_in} → {tokens_out} tokens{}", cost.unwrap_or_default()));
        if reply.finish_reason != "stop" {
            parts.push(reply.finish_reason.clone());
        }
        parts.extend((!reply.served_by.is_empty()).then(|| reply.served_by.clone()));
    }
    format!("  {} {}", one.number, parts.join(" · "))
}
