//! How long each step of a training took, over stops and restarts: provenance, which lies beside the metrics and counts in no hash.

use crate::failure::{Failure, Result};
use crate::rows::{Column, ColumnType, Row, Rows};
use crate::train::Metrics;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The clock of a training, kept in a file of lines `step seconds`. A step that a restart does again counts as it went last.
pub struct StepTimes {
    path: PathBuf,
    file: Option<std::fs::File>,
    seconds: BTreeMap<u64, f64>,
    began: Instant,
    /// Where the loop says when a step's work ends.
    took: Option<f64>,
}

impl StepTimes {
    /// Goes on with what an earlier process has kept in `folder`.
    pub fn open(folder: &Path) -> StepTimes {
        let path = folder.join("step_times");
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let line = |line: &str| {
            let (step, seconds) = line.split_once(' ')?;
            Some((step.parse().ok()?, seconds.parse().ok()?))
        };
        // A line that a kill has torn is no time.
        let seconds = kept.lines().filter_map(line).collect();
        StepTimes { path, file: None, seconds, began: Instant::now(), took: None }
    }

    pub fn step_begins(&mut self) {
        (self.began, self.took) = (Instant::now(), None);
    }

    pub fn step_ends(&mut self) {
        self.took = Some(self.began.elapsed().as_secs_f64());
    }

    /// A step is done and told. That its time cannot be kept stops no training.
    pub fn reported(&mut self, step: u64) {
        let seconds = self.took.take().unwrap_or_else(|| self.began.elapsed().as_secs_f64());
        self.began = Instant::now();
        self.seconds.insert(step, seconds);
        if self.file.is_none() {
            self.file = std::fs::File::options().create(true).append(true).open(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            // The line before may be torn: its remains end here.
            let _ = file.write_all(format!("\n{step} {seconds:.6}").as_bytes());
        }
    }

    /// `step`, `seconds`, and `tokens_per_second` where the metrics count tokens.
    pub fn rows(&self, metrics: &[Metrics]) -> Rows {
        let column = |name: &str, column_type| Column { name: name.to_string(), column_type };
        let names = ["seconds", "tokens_per_second"].map(|name| column(name, ColumnType::Float));
        let mut rows = Rows::new([column("step", ColumnType::Int)].into_iter().chain(names).collect());
        let mut before = 0.0;
        for metric in metrics {
            let seconds = self.seconds.get(&metric.step).copied().unwrap_or(f64::NAN);
            let tokens = metric.get("tokens") - before;
            before = metric.get("tokens");
            let cells = vec![Value::from(metric.step), Value::from(seconds), Value::from(tokens / seconds)];
            rows.rows.push(Row { id: metric.step.to_string(), cells });
        }
        rows
    }
}

/// One table as a Parquet file.
pub fn write_table(path: &Path, rows: &Rows) -> Result<()> {
    let batch = rows.to_batch()?;
    let refused =
        |error: parquet::errors::ParquetError| Failure::Machine(format!("cannot write `{}`: {error}", path.display()));
    // In memory first: through the writer's errors nobody would see that a disk is full.
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).map_err(refused)?;
    writer.write(&batch).map_err(refused)?;
    writer.close().map_err(refused)?;
    std::fs::write(path, bytes).map_err(|error| Failure::io("write", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_full_when_a_table_is_written_is_told_with_the_next_step() {
        let step = Column { name: "step".to_string(), column_type: ColumnType::Int };
        let failure = write_table(Path::new("/dev/full"), &Rows::new(vec![step])).unwrap_err();
        assert!(failure.to_string().contains("`/dev/full`"), "{failure}");
        assert!(failure.to_string().contains("free some space"), "{failure}");
    }

    #[test]
    fn times_outlive_a_stop_and_torn_lines_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut times = StepTimes::open(folder.path());
        for step in [1, 2] {
            times.step_begins();
            times.step_ends();
            times.reported(step);
        }
        std::fs::OpenOptions::new()
            .append(true)
            .open(folder.path().join("step_times"))
            .unwrap()
            .write_all(b"\n3")
            .unwrap();
        let mut again = StepTimes::open(folder.path());
        assert_eq!(again.seconds.keys().copied().collect::<Vec<_>>(), [1, 2]);
        again.reported(4);
        assert_eq!(StepTimes::open(folder.path()).seconds.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
    }

    #[test]
    fn tokens_a_second_are_of_the_step_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut times = StepTimes::open(folder.path());
        times.seconds = BTreeMap::from([(1, 2.0), (3, 0.5)]);
        let metrics: Vec<Metrics> =
            [(1, 100.0), (2, 150.0), (3, 250.0)].map(|(step, tokens)| Metrics::new(step, [("tokens", tokens)])).into();
        let rates: Vec<Value> = times.rows(&metrics).rows.iter().map(|row| row.cells[2].clone()).collect();
        assert_eq!(rates, [Value::from(50.0), Value::Null, Value::from(200.0)]);
    }
}
