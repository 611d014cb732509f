//! Attention in training and in generation, and the rotation before it.

use half::bf16;
use kernels::attention::{self, Cache};
use kernels::{Heads, Segments, Stream, rope};

use crate::case::{Case, Decoder, Make, Run, Sizes, random, random_of};

pub const CASES: &[Make] = &[training, training_half, rotation, generation];

const PAGE_ROWS: usize = 32;
const FLOAT_BYTES: usize = 4;

fn heads_of(decoder: &Decoder) -> Heads {
    Heads { query: decoder.query_heads, key_value: decoder.key_value_heads, width: decoder.head_width }
}

fn shape_of(decoder: &Decoder, documents: usize, tokens: usize) -> Vec<(&'static str, usize)> {
    vec![
        ("documents", documents),
        ("tokens", tokens),
        ("query_heads", decoder.query_heads),
        ("key_value_heads", decoder.key_value_heads),
        ("head_width", decoder.head_width),
    ]
}

/// Forward multiplies each pair of rows twice, backward five times (Dao 2023); the causal half of the pairs counts.
fn training(sizes: &Sizes) -> Vec<Case> {
    sizes.decoders.iter().flat_map(|decoder| training_of(decoder, sizes.documents, sizes.document_tokens)).collect()
}

fn training_of(decoder: &Decoder, documents: usize, length: usize) -> [Case; 2] {
    let (heads, tokens) = (heads_of(decoder), documents * length);
    let (packed, width) = (tokens * heads.packed_width(), tokens * heads.query_width());
    let operations = (4 * documents * (length * (length + 1) / 2) * heads.query_width()) as f64;
    let forward = move |stream: &Stream| -> Run {
        let (segments, qkv) = (Segments::new(stream, &vec![length; documents]), random(stream, packed));
        let (mut out, mut lse) = (stream.uninit(width), stream.uninit(tokens * heads.query));
        Box::new(move |stream| {
            attention::forward(stream, heads, &segments, qkv.view(), out.view_mut(), lse.view_mut());
        })
    };
    let backward = move |stream: &Stream| -> Run {
        let (segments, qkv) = (Segments::new(stream, &vec![length; documents]), random(stream, packed));
        let (mut out, mut lse) = (stream.uninit(width), stream.uninit(tokens * heads.query));
        attention::forward(stream, heads, &segments, qkv.view(), out.view_mut(), lse.view_mut());
        let (dout, mut dqkv) = (random(stream, width), stream.uninit(packed));
        Box::new(move |stream| {
            let saved = (qkv.view(), out.view(), lse.view());
            attention::backward(stream, heads, &segments, saved.0, saved.1, saved.2, dout.view(), dqkv.view_mut());
        })
    };
    let case = |way: &str, operations, floats: usize, prepare| Case {
        name: format!("attention {way}, {}", decoder.name),
        sizes: shape_of(decoder, documents, length),
        operations,
        bytes: (FLOAT_BYTES * floats) as f64,
        prepare,
    };
    [
        case("forward", operations, packed + width, Box::new(forward)),
        case("backward", 2.5 * operations, 2 * packed + 2 * width, Box::new(backward)),
    ]
}

/// The same of rows that are stored in bf16.
fn training_half(sizes: &Sizes) -> Vec<Case> {
    let of = |decoder| training_half_of(decoder, sizes.documents, sizes.document_tokens);
    sizes.decoders.iter().flat_map(of).collect()
}

fn training_half_of(decoder: &Decoder, documents: usize, length: usize) -> [Case; 2] {
    let heads = heads_of(decoder);
    let tokens = documents * length;
    let (packed, width) = (tokens * heads.packed_width(), tokens * heads.query_width());
    let random = |stream: &Stream, len: usize| random_of(stream, len, bf16::from_f32);
    let forward = move |stream: &Stream| -> Run {
        let (segments, qkv) = (Segments::new(stream, &vec![length; documents]), random(stream, packed));
        let (mut out, mut lse) = (stream.uninit(width), stream.uninit(tokens * heads.query));
        Box::new(move |stream| {
            attention::half::forward(stream, heads, &segments, qkv.view(), out.view_mut(), lse.view_mut());
        })
    };
    let backward = move |stream: &Stream| -> Run {
        let (segments, qkv) = (Segments::new(stream, &vec![length; documents]), random(stream, packed));
        let (mut out, mut lse) = (stream.uninit(width), stream.uninit(tokens * heads.query));
        attention::half::forward(stream, heads, &segments, qkv.view(), out.view_mut(), lse.view_mut());
        let (dout, mut dqkv) = (random(stream, width), stream.uninit(packed));
        Box::new(move |stream| {
            let (saved, dqkv) = ((qkv.view(), out.view(), lse.view()), dqkv.view_mut());
            attention::half::backward(stream, heads, &segments, saved.0, saved.1, saved.2, dout.view(), dqkv);
        })
    };
    let wide = training_of(decoder, documents, length);
    let [of_forward, of_backward] = wide.map(|case| Case {
        name: case.name.replace("attention", "attention_half"),
        bytes: case.bytes / 2.0,
        ..case
    });
    [Case { prepare: Box::new(forward), ..of_forward }, Case { prepare: Box::new(backward), ..of_backward }]
}

/// Queries and keys are read and written in place; a value passes by.
fn rotation(sizes: &Sizes) -> Vec<Case> {
    let (decoder, documents, length) = (sizes.largest(), sizes.documents, sizes.document_tokens);
    let (heads, tokens) = (heads_of(decoder), documents * length);
    let prepare = move |stream: &Stream| -> Run {
        let tables = rope::tables(stream, length, &rope::frequencies(heads.width, 1e6));
        let positions = stream.upload(&Segments::new(stream, &vec![length; documents]).positions());
        let mut qkv = random(stream, tokens * heads.packed_width());
        Box::new(move |stream| rope::forward(stream, heads, positions.view(), tables.view(), qkv.view_mut()))
    };
    vec![Case {
        name: format!("rope, {}", decoder.name),
        sizes: shape_of(decoder, documents, length),
        operations: 0.0,
        bytes: (2 * FLOAT_BYTES * tokens * (heads.query + heads.key_value) * heads.width) as f64,
        prepare: Box::new(prepare),
    }]
}

/// One new row of each sequence over its pages: every key and value is read once.
fn generation(sizes: &Sizes) -> Vec<Case> {
    sizes.decoders.iter().map(|decoder| generation_of(decoder, sizes.generated, sizes.context)).collect()
}

fn generation_of(decoder: &Decoder, batch: usize, context: usize) -> Case {
    let (heads, each) = (heads_of(decoder), context.div_ceil(PAGE_ROWS));
    let prepare = move |stream: &Stream| -> Run {
        let cache = Cache::new(stream, heads, batch * each, PAGE_ROWS);
        // Every sequence's pages lie apart, as in a pool that has been in use.
        let tables: Vec<u32> =
            (0..batch).flat_map(|row| (0..each).map(move |place| (place * batch + row) as u32)).collect();
        let (tables, counts) = (stream.upload(&tables), stream.upload(&vec![context as u32; batch]));
        let queries = random(stream, batch * heads.packed_width());
        let mut out = stream.uninit(batch * heads.query_width());
        Box::new(move |stream| {
            attention::decode(stream, &cache, queries.view(), tables.view(), counts.view(), out.view_mut());
        })
    };
    Case {
        name: format!("attention decode, {}", decoder.name),
        sizes: shape_of(decoder, batch, context),
        operations: (4 * batch * context * heads.query_width()) as f64,
        bytes: (2 * FLOAT_BYTES * batch * context * heads.key_value * heads.width) as f64,
        prepare: Box::new(prepare),
    }
}
