//! Dense products, the fused head, and drawing a token.

use kernels::logprob::{self, Head};
use kernels::sample::{self, Sampling};
use kernels::{Layout, Stream, Write, matmul};

use crate::case::{Case, Decoder, Make, Run, Sizes, random};

pub const CASES: &[Make] = &[products, heads, cross_entropy, sampling];

const FLOAT_BYTES: usize = 4;

/// A feed-forward layer's first product, forward and both ways back; factors are stored in f32 and rounded on the way.
fn products(sizes: &Sizes) -> Vec<Case> {
    let Decoder { name, width, feed_forward, .. } = *sizes.largest();
    let (rows, across) = (sizes.scored, 2 * feed_forward);
    let shapes =
        [(Layout::Nt, rows, across, width), (Layout::Nn, rows, width, across), (Layout::Tn, across, width, rows)];
    shapes.into_iter().map(|(layout, m, n, k)| product(name, layout, (m, n, k))).collect()
}

fn product(decoder: &str, layout: Layout, (m, n, k): (usize, usize, usize)) -> Case {
    let prepare = move |stream: &Stream| -> Run {
        let (a, b, mut c) = (random(stream, m * k), random(stream, k * n), stream.uninit(m * n));
        Box::new(move |stream| {
            matmul(stream, layout, m, n, k, a.view(), b.view(), Write::Overwrite, c.view_mut());
        })
    };
    Case {
        name: format!("product {}, {decoder}", format!("{layout:?}").to_lowercase()),
        sizes: vec![("m", m), ("n", n), ("k", k)],
        operations: (2 * m * n * k) as f64,
        bytes: (FLOAT_BYTES * (m * k + k * n + m * n)) as f64,
        prepare: Box::new(prepare),
    }
}

fn heads(sizes: &Sizes) -> Vec<Case> {
    sizes.decoders.iter().flat_map(|decoder| head(decoder, sizes.scored)).collect()
}

/// Backward computes the logits again, then two gradients from theirs: three times forward's operations.
fn head(decoder: &Decoder, rows: usize) -> [Case; 2] {
    let Decoder { vocabulary, width, .. } = *decoder;
    let head = Head { vocabulary, width, temperature: 1.0 };
    let targets = move || -> Vec<u32> { (0..rows).map(|row| (row * 7919 % vocabulary) as u32).collect() };
    let forward = move |stream: &Stream| -> Run {
        let (hidden, weight) = (random(stream, rows * width), random(stream, vocabulary * width));
        let targets = stream.upload(&targets());
        let (mut logp, mut lse) = (stream.uninit(rows), stream.uninit(rows));
        Box::new(move |stream| {
            let (inputs, lse) = ((hidden.view(), weight.view(), targets.view()), lse.view_mut());
            logprob::forward(stream, head, inputs.0, inputs.1, inputs.2, logp.view_mut(), lse, None);
        })
    };
    let backward = move |stream: &Stream| -> Run {
        let (hidden, weight) = (random(stream, rows * width), random(stream, vocabulary * width));
        let (targets, dlogp) = (stream.upload(&targets()), random(stream, rows));
        let (mut logp, mut lse) = (stream.uninit(rows), stream.uninit(rows));
        let inputs = (hidden.view(), weight.view(), targets.view());
        logprob::forward(stream, head, inputs.0, inputs.1, inputs.2, logp.view_mut(), lse.view_mut(), None);
        let (mut dhidden, mut dweight) = (stream.uninit(rows * width), stream.zeros(vocabulary * width));
        Box::new(move |stream| {
            let (inputs, saved) = ((hidden.view(), weight.view(), targets.view()), (lse.view(), dlogp.view()));
            let (dhidden, dweight) = (dhidden.view_mut(), Some(dweight.view_mut()));
            logprob::backward(stream, head, inputs.0, inputs.1, inputs.2, saved.0, saved.1, None, dhidden, dweight);
        })
    };
    let case = |way: &str, times: usize, prepare| Case {
        name: format!("logprob {way}, {}", decoder.name),
        sizes: vec![("rows", rows), ("vocabulary", vocabulary), ("width", width)],
        operations: (times * 2 * rows * vocabulary * width) as f64,
        bytes: (FLOAT_BYTES * times * (rows + vocabulary) * width) as f64,
        prepare,
    };
    [case("forward", 1, Box::new(forward)), case("backward", 3, Box::new(backward))]
}

/// A step's mean loss and its gradients: forward, and backward of three times its operations.
fn cross_entropy(sizes: &Sizes) -> Vec<Case> {
    let rows = sizes.scored;
    let of = |decoder: &Decoder| {
        let Decoder { vocabulary, width, .. } = *decoder;
        let head = Head { vocabulary, width, temperature: 1.0 };
        let prepare = move |stream: &Stream| -> Run {
            let (hidden, weight) = (random(stream, rows * width), random(stream, vocabulary * width));
            let targets: Vec<u32> = (0..rows).map(|row| (row * 7919 % vocabulary) as u32).collect();
            let (targets, dlogp) = (stream.upload(&targets), stream.upload(&vec![-1.0 / rows as f32; rows]));
            let (mut logp, mut lse) = (stream.uninit(rows), stream.uninit(rows));
            let (mut dhidden, mut dweight) = (stream.uninit(rows * width), stream.zeros(vocabulary * width));
            Box::new(move |stream| {
                let inputs = (hidden.view(), weight.view(), targets.view());
                logprob::forward(stream, head, inputs.0, inputs.1, inputs.2, logp.view_mut(), lse.view_mut(), None);
                let (saved, to_weight) = ((lse.view(), dlogp.view()), Some(dweight.view_mut()));
                let dhidden = dhidden.view_mut();
                logprob::backward(
                    stream, head, inputs.0, inputs.1, inputs.2, saved.0, saved.1, None, dhidden, to_weight,
                );
            })
        };
        Case {
            name: format!("cross_entropy, {}", decoder.name),
            sizes: vec![("rows", rows), ("vocabulary", vocabulary), ("width", width)],
            operations: (4 * 2 * rows * vocabulary * width) as f64,
            bytes: (FLOAT_BYTES * 4 * (rows + vocabulary) * width) as f64,
            prepare: Box::new(prepare),
        }
    };
    sizes.decoders.iter().map(of).collect()
}

/// A step of generation draws one token a sequence; every logit is read once.
fn sampling(sizes: &Sizes) -> Vec<Case> {
    let filters = [("sample", Sampling::at(1.0)), ("sample top-p", Sampling { top_p: 0.95, ..Sampling::at(1.0) })];
    filters.into_iter().map(|(name, sampling)| draw(name, sampling, &sizes.decoders[0], sizes.generated)).collect()
}

fn draw(name: &str, sampling: Sampling, decoder: &Decoder, rows: usize) -> Case {
    let vocabulary = decoder.vocabulary;
    let prepare = move |stream: &Stream| -> Run {
        let logits = random(stream, rows * vocabulary);
        let (seeds, counters) = (stream.upload(&vec![3u64; rows]), stream.upload(&vec![5u64; rows]));
        let (mut tokens, mut logp) = (stream.uninit(rows), stream.uninit(rows));
        Box::new(move |stream| {
            let (keys, outputs) = ((seeds.view(), counters.view()), (tokens.view_mut(), logp.view_mut()));
            sample::forward(stream, vocabulary, &sampling, logits.view(), keys.0, keys.1, outputs.0, outputs.1);
        })
    };
    Case {
        name: format!("{name}, {}", decoder.name),
        sizes: vec![("rows", rows), ("vocabulary", vocabulary)],
        operations: 0.0,
        bytes: (FLOAT_BYTES * rows * vocabulary) as f64,
        prepare: Box::new(prepare),
    }
}
