//! How fast a large table is hashed, published and read back: prints one line for each. `cargo bench -p cache`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use cache::{Preimage, Provenance, Store, Table};

const ROWS: usize = 100_000;
const COLUMNS: usize = 10;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(folder.path()).expect("a store");
    let table = table();
    report("content hash", timed(|| assert!(table.content().is_ok())));
    let mut manifest = None;
    report("publish", timed(|| manifest = Some(publish(&store, "large", &table))));
    let manifest = manifest.expect("published above");
    report(
        "open, verified",
        timed(|| drop(store.open_rows(&manifest, "rows").expect("a store").intact().expect("intact"))),
    );
    let small = Table::new(table.schema.clone(), vec![table.batches[0].slice(0, 10)]);
    report("publish 1,000 small", timed(|| (0..1000).for_each(|i| drop(publish(&store, &i.to_string(), &small)))));
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

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn report(what: &str, time: Duration) {
    println!("{what:<22} {:>8.1} ms", time.as_secs_f64() * 1e3);
}
