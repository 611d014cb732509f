//! How fast a large table is hashed, published and read back: prints one line for each. `cargo bench -p cache`.

mod support;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use cache::{Preimage, Provenance, Store, Table};
use support::{Time, report};

const ROWS: usize = 100_000;
const COLUMNS: usize = 10;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(folder.path()).expect("a store");
    let table = table();
    report("content hash", ROWS, Time::best(|| assert!(table.content().is_ok())));
    let mut manifest = None;
    report("publish", ROWS, Time::of(|| manifest = Some(publish(&store, "large", &table))));
    let manifest = manifest.expect("published above");
    let open = || drop(store.open_rows(&manifest, "rows").expect("a store").intact().expect("intact"));
    report("open, verified", ROWS, Time::best(open));
}

fn table() -> Table {
    let column = |name: usize| -> ArrayRef {
        Arc::new(
            (0..ROWS)
                .map(|row| Some(format!("row {row} of column {name}: give 2 of 45 mg and 1 of 30 mg")))
                .collect::<StringArray>(),
        )
    };
    let columns = (0..COLUMNS).map(|name| (format!("column_{name}"), column(name)));
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    Table::new(batch.schema(), vec![batch])
}

fn publish(store: &Store, name: &str, table: &Table) -> cache::Manifest {
    let mut publication = store.publish(Preimage::new().text("name", name));
    publication.table("rows", table).expect("room for a table");
    publication.commit(Provenance::default()).expect("room for a manifest")
}
