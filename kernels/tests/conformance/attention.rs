//! Attention over packed documents, and its equality with one step at a time against the cache.

use kernels::attention::{self, Cache};
use kernels::{Heads, Segments, Stream};

use crate::reference;
use crate::support::*;

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

#[test]
fn forward_and_backward() {
    for (heads, lengths) in CASES {
        let tokens: usize = lengths.iter().sum();
        let mut random = Random::new(tokens as u64);
        let qkv: Vec<f32> = random.floats(tokens * heads.packed_width()).iter().map(|x| 2.0 * x).collect();
        let dout = random.floats(tokens * heads.query_width());
        let outputs = run_everywhere(|stream| {
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

/// Every row of every document, one step at a time, each document in a slot of its own.
fn stepwise(stream: &Stream, heads: Heads, lengths: &[usize], qkv: &[f32]) -> Vec<f32> {
    let (packed, width, longest) =
        (heads.packed_width(), heads.query_width(), lengths.iter().copied().max().unwrap_or(0));
    let mut cache = Cache::new(stream, heads, lengths.len(), longest + 3);
    let firsts: Vec<usize> = (0..lengths.len()).map(|document| lengths[..document].iter().sum()).collect();
    let mut all = vec![0.0; lengths.iter().sum::<usize>() * width];
    for step in 0..longest {
        let running: Vec<usize> = (0..lengths.len()).rev().filter(|&document| step < lengths[document]).collect();
        let row = |document: usize| firsts[document] + step;
        let rows: Vec<f32> =
            running.iter().flat_map(|&document| qkv[row(document) * packed..][..packed].iter().copied()).collect();
        let slots: Vec<u32> = running.iter().map(|&document| document as u32).collect();
        let (rows, slots) = (upload(stream, &rows), upload(stream, &slots));
        let positions = upload(stream, &vec![step as u32; running.len()]);
        let row_lengths = upload(stream, &vec![step as u32 + 1; running.len()]);
        let mut out = stream.uninit(running.len() * width);
        attention::append(stream, &mut cache, rows.view(), slots.view(), positions.view());
        attention::decode(stream, &cache, rows.view(), slots.view(), row_lengths.view(), out.view_mut());
        for (values, &document) in download(stream, &out).chunks(width).zip(&running) {
            all[row(document) * width..][..width].copy_from_slice(values);
        }
    }
    all
}

#[test]
fn decoding_gives_the_bits_of_the_forward_pass() {
    for (heads, lengths) in CASES {
        let tokens: usize = lengths.iter().sum();
        let qkv: Vec<f32> = Random::new(tokens as u64).floats(tokens * heads.packed_width());
        let outputs = run_everywhere(|stream| {
            vec![("whole", forward(stream, heads, lengths, &qkv).0), ("steps", stepwise(stream, heads, lengths, &qkv))]
        });
        assert_eq!(output(&outputs, "whole"), output(&outputs, "steps"), "{heads:?} {lengths:?}");
    }
}

#[test]
fn a_copied_slot_answers_like_its_original() {
    let heads = Heads { query: 4, key_value: 2, width: 24 };
    let qkv = Random::new(3).floats(10 * heads.packed_width());
    let outputs = run_everywhere(|stream| {
        let mut cache = Cache::new(stream, heads, 3, 16);
        let rows = upload(stream, &qkv);
        let (slots, positions) = (upload(stream, &[0u32; 10]), upload(stream, &(0..10).collect::<Vec<u32>>()));
        attention::append(stream, &mut cache, rows.view(), slots.view(), positions.view());
        attention::copy_slot(stream, &mut cache, 0, 2);
        let (slots, lengths) = (upload(stream, &[0u32, 2]), upload(stream, &[10u32, 10]));
        let last = &qkv[9 * heads.packed_width()..];
        let queries = upload(stream, &[last, last].concat());
        let mut out = stream.uninit(2 * heads.query_width());
        attention::decode(stream, &cache, queries.view(), slots.view(), lengths.view(), out.view_mut());
        vec![("out", download(stream, &out))]
    });
    let (original, copy) = output(&outputs, "out").split_at(heads.query_width());
    assert_eq!(original, copy);
}
