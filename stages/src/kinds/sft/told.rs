//! What a training node tells: its examples, its curve, its evaluations.

use crate::kinds::student::spread;
use crate::report::{Report, ReportTable};
use crate::train::Metrics;
use crate::train::batches::Example;
use crate::train::held_out::{EvaluationPlan, Watch};

pub fn report(trained: &[Example], held_out: &[Example], metrics: &[Metrics], plan: Option<&EvaluationPlan>) -> Report {
    let (tokens, targets) = trained.iter().fold((0, 0), |sums, e| (sums.0 + e.tokens.len(), sums.1 + e.targets()));
    let held_out = plan.map(|_| ("held out", held_out.len()));
    let counts = [("rows", trained.len()), ("their tokens", tokens), ("of which targets", targets)];
    let mut report = Report::counts("examples", counts.into_iter().chain(held_out));
    report.tables.push(curve(metrics));
    report.tables.extend(plan.map(|plan| evaluations(metrics, plan)));
    report
}

fn curve(metrics: &[Metrics]) -> ReportTable {
    let shown = ["loss", "learning_rate", "grad_norm", "tokens", "epoch"];
    let columns = ["step"].into_iter().chain(shown).map(str::to_string).collect();
    let cells =
        |row: &Metrics| [row.step.to_string()].into_iter().chain(shown.map(|name| number(row.get(name)))).collect();
    let rows = spread(metrics, 6).into_iter().map(cells).collect();
    ReportTable { title: "sft".to_string(), columns, rows, headline: false }
}

/// The evaluations, a few of many, and always the one whose weights were kept.
fn evaluations(metrics: &[Metrics], plan: &EvaluationPlan) -> ReportTable {
    let all: Vec<Metrics> = metrics.iter().filter(|row| row.get("evaluation_loss").is_finite()).cloned().collect();
    let mut watch = Watch::default();
    for row in &all {
        watch.hear(row.step, row.get("evaluation_loss"), plan);
    }
    let (last, best) = (all.last().map(|row| row.step), watch.best.map(|(step, _)| step));
    let kept = if plan.best { best } else { last };
    let mut shown = spread(&all, 6);
    shown.extend(all.iter().filter(|row| Some(row.step) == kept));
    shown.sort_by_key(|row| row.step);
    shown.dedup_by_key(|row| row.step);
    let note = |step: u64| {
        let words = [(Some(step) == kept, "weights kept"), (Some(step) == last && watch.is_over, "stopped early")];
        words.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word).collect::<Vec<_>>().join(", ")
    };
    let cells = |row: &Metrics| {
        let numbers = ["loss", "accuracy", "perplexity"].map(|name| number(row.get(&format!("evaluation_{name}"))));
        [row.step.to_string()].into_iter().chain(numbers).chain([note(row.step)]).collect()
    };
    let rows = shown.into_iter().map(cells).collect();
    let columns = ["step", "loss", "token accuracy", "perplexity", ""].map(str::to_string).to_vec();
    ReportTable { title: "evaluation".to_string(), columns, rows, headline: false }
}

/// Whole numbers whole, others with four significant digits.
pub fn number(value: f64) -> String {
    match value {
        whole if whole.fract() == 0.0 && whole.abs() < 1e15 => format!("{whole}"),
        tiny if tiny.abs() < 1e-3 => format!("{tiny:.3e}"),
        other => format!("{other:.4}"),
    }
}
