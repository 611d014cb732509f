//! Attention over packed documents, in f32 and from bf16 factors, and its equality with one step at a time against the
//! cache.

use half::bf16;
use kernels::attention::{self, Cache};
use kernels::{Heads, Precision, Segments, Stream};

use crate::reference;
use crate::support::*;

on_every_path![
    forward_and_backward,
    factors_in_bf16,
    rows_in_bf16,
    factors_are_rounded_to_the_nearest_bf16,
    each_way_is_taken_by_name,
    documents_without_rows_are_nothing,
    decoding_is_attention_of_the_last_row_whatever_the_pages,
    what_an_earlier_sequence_left_in_a_page_is_not_seen,
    a_neighbour_that_is_no_number_is_not_seen,
];

/// Query heads, key/value heads, width; document lengths.
const CASES: [(Heads, &[usize]); 8] = [
    (Heads { query: 1, key_value: 1, width: 2 }, &[1]),
    (Heads { query: 4, key_value: 2, width: 24 }, &[30, 1, 0, 47, 24, 25]),
    (Heads { query: 7, key_value: 1, width: 64 }, &[5, 26]),
    (Heads { query: 2, key_value: 2, width: 96 }, &[23, 3]),
    (Heads { query: 2, key_value: 1, width: 128 }, &[9, 12]),
    (Heads { query: 14, key_value: 2, width: 24 }, &[49]),
    (Heads { query: 4, key_value: 2, width: 24 }, &[170, 33]),
    (Heads { query: 1, key_value: 1, width: 8 }, &[300]),
];

/// The same for accelerators: every tile's edges, wide heads, and groups of seven.
const ACCELERATED_CASES: [(Heads, &[usize]); 4] = [
    (Heads { query: 2, key_value: 1, width: 64 }, &[63, 64, 65, 193]),
    (Heads { query: 2, key_value: 2, width: 96 }, &[129]),
    (Heads { query: 7, key_value: 1, width: 128 }, &[31, 33]),
    (Heads { query: 1, key_value: 1, width: 130 }, &[34]),
];

fn cases(subject: Subject) -> impl Iterator<Item = (Heads, &'static [usize])> {
    CASES.into_iter().chain(ACCELERATED_CASES.into_iter().filter(move |_| subject.is_accelerated()))
}

/// Heads that bf16 rows may have.
fn half_cases(subject: Subject) -> impl Iterator<Item = (Heads, &'static [usize])> {
    cases(subject).filter(|(heads, _)| heads.width.is_multiple_of(8) && heads.width <= 128)
}

/// qkv and dout, as bf16 can hold them or not.
fn inputs(heads: Heads, lengths: &[usize]) -> (Vec<f32>, Vec<f32>) {
    let tokens: usize = lengths.iter().sum();
    let mut random = Random::new(tokens as u64);
    let qkv = random.floats(tokens * heads.packed_width()).iter().map(|x| 2.0 * x).collect();
    (qkv, random.floats(tokens * heads.query_width()))
}

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| bf16::from_f32(value).to_f32()).collect()
}

fn forward(stream: &Stream, heads: Heads, lengths: &[usize], qkv: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let segments = Segments::new(stream, lengths);
    let (tokens, qkv) = (segments.tokens(), upload(stream, qkv));
    let (mut out, mut lse) = (stream.uninit(tokens * heads.query_width()), stream.uninit(tokens * heads.query));
    attention::forward(stream, heads, &segments, qkv.view(), out.view_mut(), lse.view_mut());
    (download(stream, &out), download(stream, &lse))
}

fn run(stream: &Stream, heads: Heads, lengths: &[usize], qkv: &[f32], dout: &[f32]) -> Outputs {
    let (out, lse) = forward(stream, heads, lengths, qkv);
    let segments = Segments::new(stream, lengths);
    let (input, saved, sums, gradient) =
        (upload(stream, qkv), upload(stream, &out), upload(stream, &lse), upload(stream, dout));
    let mut dqkv = stream.uninit(qkv.len());
    let (input, saved, sums) = (input.view(), saved.view(), sums.view());
    attention::backward(stream, heads, &segments, input, saved, sums, gradient.view(), dqkv.view_mut());
    vec![("out", out), ("lse", lse), ("dqkv", download(stream, &dqkv))]
}

/// Largest errors of out, of lse (absolute) and of dqkv.
struct Bounds {
    out: f64,
    lse: f64,
    dqkv: f64,
}

const EXACT: Bounds = Bounds { out: TOLERANCE, lse: 1e-5, dqkv: TOLERANCE };
const HALF: Bounds = Bounds { out: HALF_TOLERANCE, lse: 1e-4, dqkv: HALF_GRADIENT_TOLERANCE };

/// Against float64, gradients against its finite differences.
fn check(outputs: &Outputs, (heads, lengths): (Heads, &[usize]), (qkv, dout): (&[f32], &[f32]), bounds: &Bounds) {
    let (out, lse) = reference::attention(heads, lengths, &wide(qkv));
    assert_close(&format!("out of {heads:?}"), output(outputs, "out"), &out, bounds.out);
    assert_within(&format!("lse of {heads:?}"), output(outputs, "lse"), &lse, bounds.lse);
    let loss = |qkv: &[f64]| inner(&reference::attention(heads, lengths, qkv).0, dout);
    assert_gradient_within(&format!("dqkv of {heads:?}"), output(outputs, "dqkv"), qkv, bounds.dqkv, loss);
}

fn forward_and_backward(subject: Subject) {
    for (heads, lengths) in cases(subject) {
        let (qkv, dout) = inputs(heads, lengths);
        let outputs = subject.run(|stream| run(stream, heads, lengths, &qkv, &dout));
        check(&outputs, (heads, lengths), (&qkv, &dout), &EXACT);
    }
}

fn factors_in_bf16(subject: Subject) {
    for (heads, lengths) in cases(subject) {
        let (qkv, dout) = inputs(heads, lengths);
        let (qkv, dout) = (rounded(&qkv), rounded(&dout));
        let outputs = subject.run_in(Precision::Bf16, |stream| run(stream, heads, lengths, &qkv, &dout));
        check(&outputs, (heads, lengths), (&qkv, &dout), &HALF);
    }
}

fn rows_in_bf16(subject: Subject) {
    for (heads, lengths) in half_cases(subject) {
        let (qkv, dout) = inputs(heads, lengths);
        let (qkv, dout) = (rounded(&qkv), rounded(&dout));
        let outputs = subject.run(|stream| run_half(stream, heads, lengths, &qkv, &dout));
        check(&outputs, (heads, lengths), (&qkv, &dout), &HALF);
    }
}

fn run_half(stream: &Stream, heads: Heads, lengths: &[usize], qkv: &[f32], dout: &[f32]) -> Outputs {
    let narrow = |values: &[f32]| -> Vec<bf16> { values.iter().map(|&value| bf16::from_f32(value)).collect() };
    let widened = |values: Vec<bf16>| -> Vec<f32> { values.iter().map(|value| value.to_f32()).collect() };
    let segments = Segments::new(stream, lengths);
    let (input, gradient) = (upload(stream, &narrow(qkv)), upload(stream, &narrow(dout)));
    let (mut out, mut lse) = (stream.uninit(dout.len()), stream.uninit(segments.tokens() * heads.query));
    let mut dqkv = stream.uninit(qkv.len());
    let (input, gradient) = (input.view(), gradient.view());
    attention::half::forward(stream, heads, &segments, input, out.view_mut(), lse.view_mut());
    attention::half::backward(stream, heads, &segments, input, out.view(), lse.view(), gradient, dqkv.view_mut());
    let [out, dqkv] = [out.view(), dqkv.view()].map(|view| widened(stream.download(view)));
    vec![("out", out), ("lse", download(stream, &lse)), ("dqkv", dqkv)]
}

/// What bf16 cannot hold gives the bits of the nearest that it can.
fn factors_are_rounded_to_the_nearest_bf16(subject: Subject) {
    if !subject.is_accelerated() {
        return; // the CPU's attention stays in f32
    }
    let (heads, lengths) = (Heads { query: 4, key_value: 2, width: 24 }, &[30, 1, 47][..]);
    let (qkv, dout) = inputs(heads, lengths);
    let of = |qkv: &[f32], dout: &[f32]| {
        subject.run_in(Precision::Bf16, |stream| {
            let out = forward(stream, heads, lengths, qkv).0;
            vec![("out", out), ("dqkv", output(&run(stream, heads, lengths, qkv, dout), "dqkv").to_vec())]
        })
    };
    let (as_given, nearest) = (of(&qkv, &dout), of(&rounded(&qkv), &dout));
    assert_eq!(output(&as_given, "out"), output(&nearest, "out"));
    assert_eq!(output(&as_given, "dqkv"), output(&nearest, "dqkv"));
}

/// Which kernel of forward each precision and generation takes: nothing falls back unseen.
fn each_way_is_taken_by_name(subject: Subject) {
    let (heads, lengths) = (Heads { query: 2, key_value: 1, width: 64 }, &[5, 9][..]);
    let (qkv, dout) = inputs(heads, lengths);
    for (precision, tensor_cores) in [(Precision::F32, false), (Precision::Bf16, true)] {
        subject.run_in(precision, |stream| {
            let outputs = run(stream, heads, lengths, &qkv, &dout);
            let is_hopper = stream.device().architecture() == Some(kernels::Architecture::HOPPER);
            let way = match (tensor_cores, is_hopper) {
                (false, _) => "attention_",
                (true, false) => "attention_half_",
                (true, true) => "attention_hopper_",
            };
            let launches = stream.device().launches();
            let launched = |part: &str| launches.iter().any(|(name, _)| *name == format!("{way}{part}_64"));
            let parts = ["forward", "backward_queries", "backward_keys"];
            assert!(!subject.is_accelerated() || parts.into_iter().all(launched), "{way}: {launches:?}");
            outputs
        });
    }
}

fn documents_without_rows_are_nothing(subject: Subject) {
    let heads = Heads { query: 2, key_value: 1, width: 64 };
    for precision in [Precision::F32, Precision::Bf16] {
        for lengths in [&[][..], &[0, 0]] {
            let outputs = subject.run_in(precision, |stream| run(stream, heads, lengths, &[], &[]));
            assert!(outputs.iter().all(|(_, values)| values.is_empty()));
        }
    }
}

/// Each document in pages of its own, which lie about; page tables are as long as the longest one's.
struct Pages<'a> {
    lengths: &'a [usize],
    page_rows: usize,
}

impl Pages<'_> {
    fn each(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0).div_ceil(self.page_rows)
    }

    fn count(&self) -> usize {
        self.each() * self.lengths.len() + 3
    }

    fn page(&self, document: usize, place: usize) -> u32 {
        (self.count() - 2 - (place * self.lengths.len() + document)) as u32
    }

    /// Where a document's row lies.
    fn place(&self, document: usize, row: usize) -> u32 {
        let page_rows = self.page_rows;
        self.page(document, row / page_rows) * page_rows as u32 + (row % page_rows) as u32
    }

    /// All documents and rows, as packed.
    fn rows(&self) -> Vec<(usize, usize)> {
        let rows = |(document, &length): (usize, &usize)| (0..length).map(move |row| (document, row));
        self.lengths.iter().enumerate().flat_map(rows).collect()
    }
}

/// Every row of every document as the last one of a sequence, all in one batch.
fn decode_all(stream: &Stream, heads: Heads, lengths: &[usize], qkv: &[f32], page_rows: usize) -> Vec<f32> {
    let pages = Pages { lengths, page_rows };
    let mut cache = Cache::new(stream, heads, pages.count(), page_rows);
    let rows = pages.rows();
    let places: Vec<u32> = rows.iter().map(|&(document, row)| pages.place(document, row)).collect();
    let table = |&(document, _): &(usize, usize)| (0..pages.each()).map(|place| pages.page(document, place)).collect();
    let tables: Vec<u32> = rows.iter().flat_map::<Vec<u32>, _>(table).collect();
    let row_lengths: Vec<u32> = rows.iter().map(|&(_, row)| row as u32 + 1).collect();
    let (qkv, places) = (upload(stream, qkv), upload(stream, &places));
    let (tables, row_lengths) = (upload(stream, &tables), upload(stream, &row_lengths));
    let mut out = stream.uninit(rows.len() * heads.query_width());
    attention::append(stream, &mut cache, qkv.view(), places.view());
    attention::decode(stream, &cache, qkv.view(), tables.view(), row_lengths.view(), out.view_mut());
    download(stream, &out)
}

fn decoding_is_attention_of_the_last_row_whatever_the_pages(subject: Subject) {
    for (heads, lengths) in cases(subject) {
        let (qkv, _) = inputs(heads, lengths);
        for (precision, qkv) in [(Precision::F32, qkv.clone()), (Precision::Bf16, rounded(&qkv))] {
            let outputs = subject.run_in(precision, |stream| {
                let decode = |page_rows| decode_all(stream, heads, lengths, &qkv, page_rows);
                vec![("of 16 rows", decode(16)), ("of 64 rows", decode(64)), ("of 256 rows", decode(256))]
            });
            let expected = reference::attention(heads, lengths, &wide(&qkv)).0;
            assert_close(&format!("steps of {heads:?}"), output(&outputs, "of 16 rows"), &expected, TOLERANCE);
            for name in ["of 64 rows", "of 256 rows"] {
                assert_eq!(output(&outputs, "of 16 rows"), output(&outputs, name), "{heads:?} {lengths:?}: {name}");
            }
        }
    }
}

/// Every row of every document, one step at a time.
fn stepwise(stream: &Stream, heads: Heads, lengths: &[usize], qkv: &[f32], page_rows: usize) -> Vec<f32> {
    let (packed, width) = (heads.packed_width(), heads.query_width());
    let (pages, longest) = (Pages { lengths, page_rows }, lengths.iter().copied().max().unwrap_or(0));
    let mut cache = Cache::new(stream, heads, pages.count(), page_rows);
    let firsts: Vec<usize> = (0..lengths.len()).map(|document| lengths[..document].iter().sum()).collect();
    let mut all = vec![0.0; lengths.iter().sum::<usize>() * width];
    for step in 0..longest {
        let running: Vec<usize> = (0..lengths.len()).rev().filter(|&document| step < lengths[document]).collect();
        let row = |document: usize| firsts[document] + step;
        let rows: Vec<f32> =
            running.iter().flat_map(|&document| qkv[row(document) * packed..][..packed].iter().copied()).collect();
        let table = |&document: &usize| (0..step / page_rows + 1).map(move |place| (document, place));
        let tables = running.iter().flat_map(table).map(|(document, place)| pages.page(document, place));
        let places: Vec<u32> = running.iter().map(|&document| pages.place(document, step)).collect();
        let (tables, places) = (upload(stream, &tables.collect::<Vec<u32>>()), upload(stream, &places));
        let row_lengths = upload(stream, &vec![step as u32 + 1; running.len()]);
        let (rows, mut out) = (upload(stream, &rows), stream.uninit(running.len() * width));
        attention::append(stream, &mut cache, rows.view(), places.view());
        attention::decode(stream, &cache, rows.view(), tables.view(), row_lengths.view(), out.view_mut());
        for (values, &document) in download(stream, &out).chunks(width).zip(&running) {
            all[row(document) * width..][..width].copy_from_slice(values);
        }
    }
    all
}

/// On the CPU not only the numbers are those of the whole pass.
#[test]
fn decoding_on_the_cpu_gives_the_bits_of_the_forward_pass_whatever_the_pages() {
    for (heads, lengths) in CASES {
        let tokens: usize = lengths.iter().sum();
        let qkv: Vec<f32> = Random::new(tokens as u64).floats(tokens * heads.packed_width());
        for page_rows in [16, 32, 64, 256] {
            let outputs = Subject::Cpu.run(|stream| {
                let whole = forward(stream, heads, lengths, &qkv).0;
                vec![("whole", whole), ("steps", stepwise(stream, heads, lengths, &qkv, page_rows))]
            });
            assert_eq!(output(&outputs, "whole"), output(&outputs, "steps"), "{heads:?} {lengths:?}: {page_rows}");
        }
    }
}

/// Documents have the bits that they have beside ordinary ones, whatever the rows of one among them hold.
fn a_neighbour_that_is_no_number_is_not_seen(subject: Subject) {
    let lengths = [66, 5, 34];
    let shapes = [(3, 1, 24), (3, 1, 64), (2, 2, 96), (2, 1, 128), (2, 1, 130)];
    for (query, key_value, width) in shapes {
        let heads = Heads { query, key_value, width };
        let (qkv, dout) = inputs(heads, &lengths);
        let (qkv, dout) = (rounded(&qkv), rounded(&dout));
        let others = |stream: &Stream, neighbour: f32| {
            let [qkv, dout] = [&qkv, &dout].map(|values| with_second(values, &lengths, neighbour));
            let mut outputs = run(stream, heads, &lengths, &qkv, &dout);
            outputs.push(("steps", decode_all(stream, heads, &lengths, &qkv, 16)));
            if width.is_multiple_of(8) && width <= 128 {
                outputs.extend(run_half(stream, heads, &lengths, &qkv, &dout));
            }
            outputs.iter().map(|(name, values)| (*name, without_second(values, &lengths))).collect()
        };
        for precision in [Precision::F32, Precision::Bf16] {
            let expected = subject.run_in(precision, |stream| others(stream, 0.5));
            for neighbour in [f32::NAN, f32::INFINITY] {
                let outputs = subject.run_in(precision, |stream| others(stream, neighbour));
                assert_eq!(outputs, expected, "{heads:?} in {precision:?} beside {neighbour}");
            }
        }
    }
}

/// Rows of documents, those of the second replaced.
fn with_second(values: &[f32], lengths: &[usize], replaced: f32) -> Vec<f32> {
    let (mut values, second) = (values.to_vec(), second(values, lengths));
    values[second].fill(replaced);
    values
}

fn without_second(values: &[f32], lengths: &[usize]) -> Vec<f32> {
    let second = second(values, lengths);
    [&values[..second.start], &values[second.end..]].concat()
}

fn second(values: &[f32], lengths: &[usize]) -> std::ops::Range<usize> {
    let row = values.len() / lengths.iter().sum::<usize>();
    lengths[0] * row..(lengths[0] + lengths[1]) * row
}

fn what_an_earlier_sequence_left_in_a_page_is_not_seen(subject: Subject) {
    let heads = Heads { query: 4, key_value: 2, width: 24 };
    let qkv = Random::new(3).floats(17 * heads.packed_width());
    let last = &qkv[16 * heads.packed_width()..];
    let answer = |stream: &Stream, left: f32| {
        let mut cache = Cache::new(stream, heads, 2, 16);
        let all = upload(stream, &(0..32).collect::<Vec<u32>>());
        let garbage = upload(stream, &vec![left; 32 * heads.packed_width()]);
        attention::append(stream, &mut cache, garbage.view(), all.view());
        attention::append(stream, &mut cache, upload(stream, &qkv).view(), all.slice(0..17));
        let (tables, lengths) = (upload(stream, &[0u32, 1]), upload(stream, &[17u32]));
        let (queries, mut out) = (upload(stream, last), stream.uninit(heads.query_width()));
        attention::decode(stream, &cache, queries.view(), tables.view(), lengths.view(), out.view_mut());
        download(stream, &out)
    };
    for precision in [Precision::F32, Precision::Bf16] {
        let outputs = subject.run_in(precision, |stream| {
            [("of zeros", 0.0), ("of much", 1e30), ("of infinities", f32::INFINITY), ("of NaN", f32::NAN)]
                .map(|(name, left)| (name, answer(stream, left)))
                .into()
        });
        for name in ["of much", "of infinities", "of NaN"] {
            assert_eq!(output(&outputs, "of zeros"), output(&outputs, name), "{name}");
        }
    }
}
