//! What is the same table and what is not: a wrong "same" serves stale rows, a wrong "different" pays twice.

use std::sync::Arc;

use arrow::array::types::Int32Type;
use arrow::array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, Float32Array, Float64Array, Int64Array, LargeStringArray,
    ListArray, MapBuilder, NullArray, RecordBatch, StringArray, StringBuilder, StructArray, UInt64Array,
    new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Schema};
use cache::{ContentHash, Table, TableWriter, read_table};
use proptest::prelude::*;

fn table(columns: Vec<(&str, ArrayRef)>) -> Table {
    let fields: Vec<_> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, array)| array).collect()).unwrap();
    Table::new(schema, vec![batch])
}

fn hash(columns: Vec<(&str, ArrayRef)>) -> ContentHash {
    table(columns).content().unwrap()
}

fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn numbers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn floats(values: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

fn lists(lengths: &[usize], items: ArrayRef, item_name: &str, nulls: Option<Vec<bool>>) -> ArrayRef {
    let field = Arc::new(Field::new(item_name, items.data_type().clone(), true));
    Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths.to_vec()), items, nulls.map(NullBuffer::from)))
}

fn structs(columns: Vec<(&str, ArrayRef)>) -> ArrayRef {
    let fields =
        columns.into_iter().map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array));
    Arc::new(StructArray::from(fields.collect::<Vec<_>>()))
}

fn maps(rows: &[&[(&str, &str)]]) -> ArrayRef {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for row in rows {
        for (key, value) in *row {
            builder.keys().append_value(key);
            builder.values().append_value(value);
        }
        builder.append(true).unwrap();
    }
    Arc::new(builder.finish())
}

fn dictionary(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(values.iter().copied().collect::<DictionaryArray<Int32Type>>())
}

fn check(a: ArrayRef, b: ArrayRef, same: bool) {
    let (left, right) = (hash(vec![("x", a.clone())]), hash(vec![("x", b.clone())]));
    assert_eq!(left == right, same, "{a:?}\nand\n{b:?}");
}

#[test]
fn layouts_of_one_column_are_one_content() {
    let plain = texts(&[Some("a"), None, Some("b"), Some("a")]);
    check(plain.clone(), Arc::new(LargeStringArray::from(vec![Some("a"), None, Some("b"), Some("a")])), true);
    check(plain.clone(), dictionary(&[Some("a"), None, Some("b"), Some("a")]), true);
    check(plain, texts(&[Some("z"), Some("a"), None, Some("b"), Some("a")]).slice(1, 4), true);
    check(texts(&[None, None]), dictionary(&[None, None]), true);
    check(numbers(&[1, 2]), numbers(&[9, 1, 2, 9]).slice(1, 2), true);
    let flags = |values: &[bool]| Arc::new(BooleanArray::from(values.to_vec())) as ArrayRef;
    check(flags(&[true, false]), flags(&[false, true, false]).slice(1, 2), true);
    let items = texts(&[Some("a"), Some("b"), None]);
    check(lists(&[2, 0, 1], items.clone(), "item", None), lists(&[2, 0, 1], items.clone(), "element", None), true);
    check(
        lists(&[2, 1], items.clone(), "item", None),
        lists(&[2, 1], dictionary(&[Some("a"), Some("b"), None]), "item", None),
        true,
    );
    // What lies under a null does not count.
    let hidden = lists(&[1, 2], items.clone(), "item", Some(vec![true, false]));
    check(hidden, lists(&[1, 0], texts(&[Some("a")]), "item", Some(vec![true, false])), true);
}

#[test]
fn different_values_are_different_contents() {
    check(texts(&[None]), texts(&[Some("")]), false);
    check(texts(&[Some("ab"), Some("c")]), texts(&[Some("a"), Some("bc")]), false);
    check(numbers(&[1, 2]), numbers(&[2, 1]), false);
    check(numbers(&[1]), numbers(&[1, 1]), false);
    check(numbers(&[1]), floats(&[1.0]), false);
    check(numbers(&[1]), Arc::new(UInt64Array::from(vec![1])), false);
    check(floats(&[1.0]), Arc::new(Float32Array::from(vec![1.0])), false);
    check(texts(&[Some("1")]), numbers(&[1]), false);
    check(texts(&[None]), new_null_array(&DataType::Int64, 1), false);
    check(Arc::new(NullArray::new(1)), texts(&[None]), false);
    check(Arc::new(NullArray::new(1)), Arc::new(NullArray::new(2)), false);
    let items = texts(&[Some("a"), Some("b")]);
    check(lists(&[1, 1], items.clone(), "item", None), lists(&[2, 0], items.clone(), "item", None), false);
    check(lists(&[0], texts(&[]), "item", None), lists(&[0], texts(&[]), "item", Some(vec![false])), false);
    check(lists(&[1], texts(&[None]), "item", None), lists(&[0], texts(&[]), "item", None), false);
    check(structs(vec![("a", numbers(&[1]))]), structs(vec![("b", numbers(&[1]))]), false);
    check(structs(vec![("a", numbers(&[1]))]), numbers(&[1]), false);
    check(maps(&[&[("a", "1"), ("b", "2")]]), maps(&[&[("b", "2"), ("a", "1")]]), false);
    check(maps(&[&[("a", "1")], &[]]), maps(&[&[], &[("a", "1")]]), false);
}

#[test]
fn floats_count_by_their_bits_but_all_nans_are_one() {
    let payload = f64::from_bits(f64::NAN.to_bits() | 1);
    check(floats(&[f64::NAN]), floats(&[payload]), true);
    check(floats(&[f64::NAN]), floats(&[-f64::NAN]), true);
    check(floats(&[0.0]), floats(&[-0.0]), false);
    check(floats(&[f64::NAN]), new_null_array(&DataType::Float64, 1), false);
    let narrow = |value: f32| Arc::new(Float32Array::from(vec![value])) as ArrayRef;
    check(narrow(f32::NAN), narrow(f32::from_bits(f32::NAN.to_bits() | 1)), true);
    check(narrow(0.0), narrow(-0.0), false);
}

#[test]
fn columns_count_by_name_and_place() {
    let (a, b) = (numbers(&[1]), numbers(&[2]));
    let base = hash(vec![("a", a.clone()), ("b", b.clone())]);
    assert_ne!(base, hash(vec![("b", b.clone()), ("a", a.clone())]), "column order");
    assert_ne!(base, hash(vec![("a", b.clone()), ("b", a.clone())]), "values swapped");
    assert_ne!(base, hash(vec![("a", a.clone()), ("c", b)]), "renamed");
    assert_ne!(base, hash(vec![("a", a)]), "dropped");
}

#[test]
fn only_our_own_metadata_counts() {
    let with = |key: &str, nullable: bool| {
        let field = Field::new("a", DataType::Int64, nullable).with_metadata([(key.to_owned(), "1".to_owned())]);
        Table::new(Arc::new(Schema::new(vec![field])), vec![]).content().unwrap()
    };
    assert_eq!(with("writer", true), with("pandas", true));
    assert_eq!(with("writer", true), with("writer", false), "a declaration about nulls is no value");
    assert_ne!(with("writer", true), with("decoct:role", true));
}

#[test]
fn a_type_without_an_identity_names_its_column() {
    let schema = Schema::new(vec![Field::new("when", DataType::Date32, true)]);
    let error = cache::content_hash(&schema, []).unwrap_err().to_string();
    assert!(error.contains("`when`") && error.contains("hint"), "{error}");
}

/// A table of every type from plain rows, so that one description can be laid out in many ways.
type Row = (Option<String>, Option<f64>, Vec<Option<String>>, Option<bool>);

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let text = || prop::option::of("[a-cäß]{0,3}");
    let float = prop::option::of(prop_oneof![any::<f64>(), Just(f64::NAN), Just(0.0), Just(-0.0)]);
    prop::collection::vec((text(), float, prop::collection::vec(text(), 0..3), prop::option::of(any::<bool>())), 0..24)
}

fn batch(rows: &[Row], packed: bool) -> RecordBatch {
    let strings = |values: Vec<Option<&str>>| if packed { dictionary(&values) } else { texts(&values) };
    let items: Vec<_> = rows.iter().flat_map(|row| row.2.iter().map(Option::as_deref)).collect();
    let lengths: Vec<_> = rows.iter().map(|row| row.2.len()).collect();
    let flags: ArrayRef = Arc::new(rows.iter().map(|row| row.3).collect::<BooleanArray>());
    let text = strings(rows.iter().map(|row| row.0.as_deref()).collect());
    let columns = vec![
        ("text", text.clone()),
        ("float", Arc::new(rows.iter().map(|row| row.1).collect::<Float64Array>()) as ArrayRef),
        ("list", lists(&lengths, strings(items), "item", None)),
        ("pair", structs(vec![("flag", flags), ("text", text)])),
    ];
    table(columns).batches.remove(0)
}

fn cut(rows: &[Row], at: usize, packed: bool) -> Table {
    let (head, tail) = rows.split_at(at);
    let batches = vec![batch(head, packed), batch(tail, packed)];
    Table::new(batches[0].schema(), batches)
}

fn written(table: &Table) -> Vec<u8> {
    let mut writer = TableWriter::new(Vec::new(), table.schema.clone()).unwrap();
    table.batches.iter().for_each(|batch| writer.write(batch).unwrap());
    let (bytes, summary) = writer.finish().unwrap();
    assert_eq!(summary.content, table.content().unwrap());
    bytes
}

fn read_back(bytes: &[u8]) -> Table {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    read_table(file).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn content_ignores_chunks_dictionaries_and_the_trip_through_a_file(rows in rows(), at in any::<prop::sample::Index>()) {
        let at = at.index(rows.len() + 1);
        let whole = cut(&rows, 0, false);
        let expected = whole.content().unwrap();
        for packed in [false, true] {
            let other = cut(&rows, at, packed);
            prop_assert_eq!(other.content().unwrap(), expected);
            prop_assert_eq!(read_back(&written(&other)).content().unwrap(), expected);
        }
        prop_assert_eq!(written(&whole), written(&cut(&rows, at, false)), "the file's bytes depend on the batches");
    }

    #[test]
    fn content_notices_every_change_of_a_row(rows in rows(), at in any::<prop::sample::Index>(), other in "[d-f]{1,2}") {
        prop_assume!(!rows.is_empty());
        let expected = batch(&rows, false);
        let mut changed = rows.clone();
        changed[at.index(rows.len())].0 = Some(other);
        let mut longer = rows.clone();
        longer.push(rows[0].clone());
        for differing in [changed, longer, rows[1..].to_vec()] {
            let (a, b) = (batch(&differing, false), expected.clone());
            let content = |batch: RecordBatch| Table::new(batch.schema(), vec![batch]).content().unwrap();
            prop_assert_ne!(content(a), content(b));
        }
    }
}
