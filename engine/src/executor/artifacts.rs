//! Between stages and the store: finished outputs become inputs, what a stage returns becomes finished outputs.

use super::tables::{Opened, Written};
use crate::spec::Node;
use arrow::array::RecordBatch;
use cache::{ContentHash, Found, Manifest, Placement, Publication, Store};
use stages::failure::Failure;
use stages::rows::Rows;
use stages::stage::{Artifact, Form, Input, Inputs, NodeRef, Output, Outputs};
use stages::table::Table;
use std::path::Path;
use std::sync::Arc;

/// Written by training nodes: how long it took is no part of what came out.
pub const PROVENANCE_FILES: &[&str] = &["timings.json", "timings.parquet"];

/// Why an artifact cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Stage(#[from] Failure),
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error(transparent)]
    Engine(#[from] crate::failure::Failure),
    /// It was evicted and can be made again.
    #[error("{0}")]
    Damaged(cache::Notice),
    #[error("{notice}")]
    DamagedInput { node: String, notice: cache::Notice },
    #[error("`{0}` is no longer in the cache")]
    Gone(String),
}

/// Opens an output: rows are read, a model is placed below `folder`.
pub fn open(store: &Store, manifest: &Manifest, output: &Output, folder: &Path) -> Result<Artifact, Trouble> {
    match output.form {
        Form::Rows => Ok(Artifact::Rows(open_rows(store, manifest, &output.name)?)),
        Form::Model => {
            whole(store.materialise(manifest, &output.name, folder, Placement::Link)?, &output.name)?;
            Ok(Artifact::Model(folder.to_path_buf()))
        }
    }
}

/// The same with rows that are read while they are worked on.
pub fn open_lazily(store: &Store, manifest: &Manifest, output: &Output, folder: &Path) -> Result<Artifact, Trouble> {
    match output.form {
        Form::Rows => {
            let table = whole(store.open_table(manifest, &output.name)?, &output.name)?;
            Ok(Artifact::Stored(Arc::new(Opened::new(table)?)))
        }
        Form::Model => open(store, manifest, output, folder),
    }
}

/// What a reference to a finished node means, opened by one of the two above.
pub fn input(
    producer: &Node,
    from: &NodeRef,
    open: impl FnOnce(&Output) -> Result<Artifact, Trouble>,
) -> Result<Artifact, Trouble> {
    let output = producer.output(&from.output).expect("outputs were checked when the recipe was read");
    open(&output).map_err(|trouble| match trouble {
        Trouble::Damaged(notice) => Trouble::DamagedInput { node: from.node.clone(), notice },
        other => other,
    })
}

/// All that a node reads from others, each by `open` with a folder below `scratch` for its files.
pub fn inputs(
    node: &Node,
    scratch: &Path,
    open: impl Fn(&NodeRef, &Path) -> Result<Artifact, Trouble>,
) -> Result<Inputs, Trouble> {
    // Folders are numbered: a port may hold a label, which is anything a user writes.
    let open = |(index, input): (usize, Input)| {
        let folder = scratch.join("inputs").join(index.to_string());
        Ok((input.port, open(&input.from, &folder)?))
    };
    Ok(Inputs(node.stage.inputs().into_iter().enumerate().map(open).collect::<Result<_, Trouble>>()?))
}

pub fn open_rows(store: &Store, manifest: &Manifest, output: &str) -> Result<Rows, Trouble> {
    Ok(Rows::from_batches(&batches(open_table(store, manifest, output)?))?)
}

pub fn open_table(store: &Store, manifest: &Manifest, output: &str) -> Result<cache::Table, Trouble> {
    whole(store.open_rows(manifest, output)?, output)
}

/// A model's files in a folder of somebody's own.
pub fn copy_model(store: &Store, manifest: &Manifest, output: &Output, folder: &Path) -> Result<(), Trouble> {
    whole(store.materialise(manifest, &output.name, folder, Placement::Copy)?, &output.name)
}

fn whole<T>(found: Found<T>, output: &str) -> Result<T, Trouble> {
    match found {
        Found::Intact(value) => Ok(value),
        Found::Damaged(notice) => Err(Trouble::Damaged(notice)),
        Found::Missing => Err(Trouble::Gone(output.to_string())),
    }
}

/// At least one batch: an empty table has columns too.
fn batches(table: cache::Table) -> Vec<RecordBatch> {
    if table.batches.is_empty() { vec![RecordBatch::new_empty(table.schema)] } else { table.batches }
}

/// Adds everything that `declared` promises to the publication.
pub fn publish(publication: &mut Publication, declared: &[Output], outputs: &Outputs) -> Result<(), Trouble> {
    check(declared, outputs)?;
    for (name, artifact) in &outputs.artifacts {
        match artifact {
            Artifact::Rows(rows) => {
                let batch = rows.to_batch()?;
                publication.rows(name, batch.schema(), [Ok::<_, cache::Error>(batch)])?;
            }
            Artifact::Stored(_) => {
                publication.written(name, written(artifact)?.take().expect("an output is published once"))?;
            }
            Artifact::Model(folder) => {
                publication.tree(name, folder, PROVENANCE_FILES)?;
            }
        }
    }
    Ok(())
}

/// What [`publish`] would name the artifact by.
pub fn content(artifact: &Artifact) -> Result<ContentHash, Trouble> {
    match artifact {
        Artifact::Rows(rows) => {
            let batch = rows.to_batch()?;
            Ok(cache::content_hash(&batch.schema(), [&batch])?)
        }
        Artifact::Stored(_) => Ok(written(artifact)?.content()),
        Artifact::Model(folder) => Ok(cache::folder_content(folder, PROVENANCE_FILES)?),
    }
}

/// Rows as they are, or will be, in the store.
pub fn rows_of(artifact: &Artifact) -> Result<Option<Rows>, Failure> {
    match artifact {
        Artifact::Rows(rows) => Rows::from_batches(&[rows.to_batch()?]).map(Some),
        Artifact::Stored(stored) => Table::Stored(stored.clone()).load().map(Some),
        Artifact::Model(_) => Ok(None),
    }
}

/// What a stage wrote through a sink of ours.
fn written(artifact: &Artifact) -> Result<Arc<Written>, Failure> {
    let ours = match artifact {
        Artifact::Stored(stored) => stored.clone().into_any().downcast().ok(),
        _ => None,
    };
    ours.ok_or_else(|| Failure::Ourselves("a stage gave back what it was given".to_string()))
}

/// What a stage returned must be what it promised.
pub fn check(declared: &[Output], outputs: &Outputs) -> Result<(), Failure> {
    let returned = outputs.artifacts.iter().map(|(name, artifact)| {
        let form = if matches!(artifact, Artifact::Model(_)) { Form::Model } else { Form::Rows };
        Output { name: name.clone(), form }
    });
    let mut returned: Vec<Output> = returned.collect();
    let mut declared = declared.to_vec();
    returned.sort_by(|a, b| a.name.cmp(&b.name));
    declared.sort_by(|a, b| a.name.cmp(&b.name));
    if returned == declared {
        return Ok(());
    }
    Err(Failure::Ourselves(format!("a stage promised {declared:?} and returned {returned:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cache::{Preimage, Provenance};
    use stages::report::Report;
    use stages::rows::{Column, ColumnType};

    #[test]
    fn an_empty_table_keeps_its_columns() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let rows = Rows::new(vec![Column { name: "question".into(), column_type: ColumnType::Text }]);
        let mut publication = store.publish(Preimage::new());
        publish(&mut publication, &[Output::rows("")], &Outputs::rows(rows.clone(), Report::default())).unwrap();
        let manifest = publication.commit(Provenance::default()).unwrap();
        assert_eq!(content(&Artifact::Rows(rows.clone())).unwrap(), manifest.outputs[""].content());
        assert_eq!(open_rows(&store, &manifest, "").unwrap(), rows);
    }

    #[test]
    fn a_promise_that_is_not_kept_is_our_bug() {
        let outputs = Outputs::rows(Rows::default(), Report::default());
        for declared in
            [vec![], vec![Output::model("")], vec![Output::rows("rest")], vec![Output::rows(""), Output::rows("rest")]]
        {
            assert!(matches!(check(&declared, &outputs), Err(Failure::Ourselves(_))), "{declared:?}");
        }
        assert!(check(&[Output::rows("")], &outputs).is_ok());
    }
}
