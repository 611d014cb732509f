//! Attention over packed documents, and its equality with one step at a time against the cache.

use kernels::attention::{self, Cache};
use kernels::{Heads, Segments, Stream};

use crate::reference;
use crate::support::*;

on_every_path![
    forward_and_backward,
    decoding_gives_the_bits_of_the_forward_pass_whatever_the_pages,
    what_an_earlier_sequence_left_in_a_page_is_not_seen,
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

fn forward(stream: &Stream, heads: Heads, lengths: &[usize], qkv: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let segments = Segments::new(stream, lengths);
    let (tokens, qkv) = (segments.tokens(), upload(stream, qkv));
    let (mut out, mut lse) = (stream.uninit(tokens * heads.query_width()), stream.uninit(tokens * heads.query));
    attention::forward(stream, heads, &segments, qkv.view(), out.view_mut(), lse.view_mut());
    (download(stream, &out), download(stream, &lse))
}

fn forward_and_backward(subject: Subject) {
    for (heads, lengths) in CASES {
        let tokens: usize = lengths.iter().sum();
        let mut random = Random::new(tokens as u64);
        let qkv: Vec<f32> = random.floats(tokens * heads.packed_width()).iter().map(|x| 2.0 * x).collect();
        let dout = random.floats(tokens * heads.query_width());
        let outputs = subject.run(|stream| {
            let (out, lse) = forward(stream, heads, lengths, &qkv);
            let segments = Segments::new(stream, lengths);
            let (input, saved, sums, gradient) =
                (upload(stream, &qkv), upload(stream, &out), upload(stream, &lse), upload(stream, &dout));
            let mut dqkv = stream.uninit(qkv.len());
            let (input, saved, sums) = (input.view(), saved.view(), sums.view());
            attention::backward(stream, heads, &segments, input, saved, sums, gradient.view(), dqkv.view_mut());
            vec![("out", out), ("lse", lse), ("dqkv", download(stream, &dqkv))]
        });
        let (out, lse) = reference::attention(heads, lengths, &wide(&qkv));
        assert_close("out", output(&outputs, "out"), &out, TOLERANCE);
        assert_within("lse", output(&outputs, "lse"), &lse, 1e-5);
        let loss = |qkv: &[f64]| inner(&reference::attention(heads, lengths, qkv).0, &dout);
        assert_gradient(&format!("dqkv of {heads:?}"), output(&outputs, "dqkv"), &qkv, loss);
    }
}

/// Every row of every document, one step at a time, each document in pages of its own, which lie about.
fn stepwise(stream: &Stream, heads: Heads, lengths: &[usize], qkv: &[f32], page_rows: usize) -> Vec<f32> {
    let (packed, width, longest) =
        (heads.packed_width(), heads.query_width(), lengths.iter().copied().max().unwrap_or(0));
    let each = longest.div_ceil(page_rows);
    let pages = each * lengths.len() + 3;
    let mut cache = Cache::new(stream, heads, pages, page_rows);
    let page = |document: usize, place: usize| (pages - 2 - (place * lengths.len() + document)) as u32;
    let firsts: Vec<usize> = (0..lengths.len()).map(|document| lengths[..document].iter().sum()).collect();
    let mut all = vec![0.0; lengths.iter().sum::<usize>() * width];
    for step in 0..longest {
        let running: Vec<usize> = (0..lengths.len()).rev().filter(|&document| step < lengths[document]).collect();
        let row = |document: usize| firsts[document] + step;
        let rows: Vec<f32> =
            running.iter().flat_map(|&document| qkv[row(document) * packed..][..packed].iter().copied()).collect();
        let place = |&document: &usize| page(document, step / page_rows) * page_rows as u32 + (step % page_rows) as u32;
        let table = |&document: &usize| (0..step / page_rows + 1).map(move |place| page(document, place));
        let places = upload(stream, &running.iter().map(place).collect::<Vec<u32>>());
        let tables = upload(stream, &running.iter().flat_map(table).collect::<Vec<u32>>());
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

fn decoding_gives_the_bits_of_the_forward_pass_whatever_the_pages(subject: Subject) {
    for (heads, lengths) in CASES {
        let tokens: usize = lengths.iter().sum();
        let qkv: Vec<f32> = Random::new(tokens as u64).floats(tokens * heads.packed_width());
        for page_rows in [16, 32, 64, 256] {
            let outputs = subject.run(|stream| {
                let whole = forward(stream, heads, lengths, &qkv).0;
                vec![("whole", whole), ("steps", stepwise(stream, heads, lengths, &qkv, page_rows))]
            });
            assert_eq!(output(&outputs, "whole"), output(&outputs, "steps"), "{heads:?} {lengths:?}: {page_rows}");
        }
    }
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
    let outputs = subject.run(|stream| {
        [("of zeros", 0.0), ("of much", 1e30), ("of NaN", f32::NAN)]
            .map(|(name, left)| (name, answer(stream, left)))
            .into()
    });
    for name in ["of much", "of NaN"] {
        assert_eq!(output(&outputs, "of zeros"), output(&outputs, name), "{name}");
    }
}
