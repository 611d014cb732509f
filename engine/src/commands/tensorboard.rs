//! A training's metrics as a TensorBoard event file: records of lengths and checksums around small protocol buffers.
//!
//! ```text
//! record: ┌────────────┬───────────────┬──────────┬─────────────┐
//!         │ length u64 │ masked crc32c │ an Event │ its crc32c  │   little-endian
//!         └────────────┴───────────────┴──────────┴─────────────┘
//! Event:   1 wall_time f64 · 2 step i64 · 3 file_version text · 5 Summary
//! Summary: 1 Value { 1 tag text · 2 simple_value f32 }, one for each number
//! ```

use crate::failure::{Failure, Result};
use serde_json::Value;
use stages::rows::Rows;
use std::path::{Path, PathBuf};

/// TensorBoard reads every file whose name holds `tfevents`; one name a node, so that a newer training takes the place of an older.
const FILE_NAME: &str = "events.out.tfevents.0.decoct";
const STEP: &str = "step";

/// Writes `folder/<node>/events…`: TensorBoard shows each such folder as a run.
pub fn write(folder: &Path, node: &str, metrics: &Rows, started_at: f64) -> Result<PathBuf> {
    let run = folder.join(node);
    let path = run.join(FILE_NAME);
    std::fs::create_dir_all(&run).map_err(|error| Failure::io("create", &run, &error))?;
    std::fs::write(&path, events(metrics, started_at)).map_err(|error| Failure::io("write", &path, &error))?;
    Ok(path)
}

/// One event a row, with every number that it has; its time is when the training began plus what its steps took, where that is known.
fn events(metrics: &Rows, started_at: f64) -> Vec<u8> {
    let mut bytes = record(&event(started_at, 0, &field(3, b"brain.Event:2")));
    let mut seconds = 0.0;
    for (place, row) in metrics.rows.iter().enumerate() {
        let number = |name: &str| metrics.position(name).and_then(|column| row.cells[column].as_f64());
        seconds += number("seconds").unwrap_or(0.0);
        let step = number(STEP).map_or(place as u64 + 1, |step| step as u64);
        let values = metrics.columns.iter().zip(&row.cells).filter(|(column, _)| column.name != STEP);
        let summary: Vec<u8> = values.filter_map(|(column, cell)| value(&column.name, cell)).flatten().collect();
        bytes.extend(record(&event(started_at + seconds, step, &field(5, &summary))));
    }
    bytes
}

fn value(name: &str, cell: &Value) -> Option<Vec<u8>> {
    let number = cell.as_f64()? as f32;
    let tag = match name.strip_prefix("evaluation_") {
        Some(rest) => format!("evaluation/{rest}"),
        None => format!("training/{name}"),
    };
    let simple_value = [&[2 << 3 | 5][..], &number.to_le_bytes()].concat();
    Some(field(1, &[field(1, tag.as_bytes()), simple_value].concat()))
}

fn event(wall_time: f64, step: u64, what: &[u8]) -> Vec<u8> {
    [&[1 << 3 | 1][..], &wall_time.to_le_bytes(), &[2 << 3], &varint(step), what].concat()
}

/// A length-delimited field: text, or a message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(content.len() as u64), content].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &masked(crc32c(&length)), content, &masked(crc32c(content))].concat()
}

/// Checksums are kept rotated and shifted, as a checksum of bytes that hold checksums is weak.
fn masked(crc: u32) -> [u8; 4] {
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Castagnoli's polynomial, bit by bit: these files are small.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| bit(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_castagnolis() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn numbers_of_any_size_are_varints() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(300), [0xac, 0x02]);
        assert_eq!(varint(u64::MAX).len(), 10);
    }
}
