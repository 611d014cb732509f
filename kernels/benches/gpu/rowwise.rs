//! What works row by row or number by number: bound by memory, so floors count bytes.

use kernels::adamw::{self, AdamW};
use kernels::dpo::{self, Preference};
use kernels::gae::{self, Discounts};
use kernels::ppo::{self, Clip};
use kernels::{Heads, Segments, Stream, Write, embedding, head_norm, norm, swiglu};

use crate::case::{Case, Decoder, Make, Run, Sizes, random};

pub const CASES: &[Make] = &[norm, head_norm, swiglu, embedding, adamw, gae, losses];

const FLOAT_BYTES: f64 = 4.0;

fn case(
    name: String,
    sizes: &[(&'static str, usize)],
    floats: usize,
    prepare: impl FnOnce(&Stream) -> Run + 'static,
) -> Case {
    let bytes = FLOAT_BYTES * floats as f64;
    Case { name, sizes: sizes.to_vec(), operations: 0.0, bytes, prepare: Box::new(prepare) }
}

/// x and out, in backward also dout; a weight's gradient is small beside them.
fn norm(sizes: &Sizes) -> Vec<Case> {
    let Decoder { name, width, .. } = *sizes.largest();
    let rows = sizes.rows;
    let shape = [("rows", rows), ("width", width)];
    let forward = move |stream: &Stream| -> Run {
        let (x, weight) = (random(stream, rows * width), random(stream, width));
        let (mut out, mut rstd) = (stream.uninit(rows * width), random(stream, rows));
        Box::new(move |stream| {
            norm::forward(stream, rows, width, 1e-6, x.view(), weight.view(), out.view_mut(), rstd.view_mut());
        })
    };
    let backward = move |stream: &Stream| -> Run {
        let (x, weight, dout) = (random(stream, rows * width), random(stream, width), random(stream, rows * width));
        let (rstd, mut dx, mut dweight) = (random(stream, rows), stream.uninit(rows * width), stream.zeros(width));
        Box::new(move |stream| {
            let (saved, write) = ((x.view(), weight.view(), rstd.view()), Write::Overwrite);
            let (dx, dweight) = (dx.view_mut(), dweight.view_mut());
            norm::backward(stream, rows, width, saved.0, saved.1, saved.2, dout.view(), write, dx, dweight);
        })
    };
    vec![
        case(format!("norm forward, {name}"), &shape, 2 * rows * width, forward),
        case(format!("norm backward, {name}"), &shape, 3 * rows * width, backward),
    ]
}

/// x and out, values with them; in backward x is read, and dqkv read and written.
fn head_norm(sizes: &Sizes) -> Vec<Case> {
    let Decoder { name, query_heads: query, key_value_heads: key_value, head_width: width, .. } = *sizes.largest();
    let (rows, heads) = (sizes.rows, Heads { query, key_value, width });
    let len = rows * heads.packed_width();
    let shape = [("rows", rows), ("query_heads", query), ("key_value_heads", key_value), ("head_width", width)];
    let forward = move |stream: &Stream| -> Run {
        let (x, weight) = (random(stream, len), random(stream, 2 * width));
        let (mut out, mut rstd) = (stream.uninit(len), stream.uninit(rows * (query + key_value)));
        Box::new(move |stream| {
            head_norm::forward(stream, heads, 1e-6, x.view(), weight.view(), out.view_mut(), rstd.view_mut());
        })
    };
    let backward = move |stream: &Stream| -> Run {
        let (x, weight, rstd) =
            (random(stream, len), random(stream, 2 * width), random(stream, rows * (query + key_value)));
        let (mut dqkv, mut dweight) = (random(stream, len), stream.zeros(2 * width));
        Box::new(move |stream| {
            let (saved, gradients) = ((x.view(), weight.view(), rstd.view()), (dqkv.view_mut(), dweight.view_mut()));
            head_norm::backward(stream, heads, saved.0, saved.1, saved.2, gradients.0, gradients.1);
        })
    };
    vec![
        case(format!("head_norm forward, {name}"), &shape, 2 * len, forward),
        case(format!("head_norm backward, {name}"), &shape, 3 * len, backward),
    ]
}

fn swiglu(sizes: &Sizes) -> Vec<Case> {
    let Decoder { name, feed_forward: width, .. } = *sizes.largest();
    let rows = sizes.rows;
    let shape = [("rows", rows), ("width", width)];
    let forward = move |stream: &Stream| -> Run {
        let (gate_up, mut out) = (random(stream, 2 * rows * width), stream.uninit(rows * width));
        Box::new(move |stream| swiglu::forward(stream, rows, width, gate_up.view(), out.view_mut()))
    };
    let backward = move |stream: &Stream| -> Run {
        let (gate_up, dout) = (random(stream, 2 * rows * width), random(stream, rows * width));
        let mut dgate_up = stream.uninit(2 * rows * width);
        Box::new(move |stream| {
            swiglu::backward(stream, rows, width, gate_up.view(), dout.view(), dgate_up.view_mut());
        })
    };
    vec![
        case(format!("swiglu forward, {name}"), &shape, 3 * rows * width, forward),
        case(format!("swiglu backward, {name}"), &shape, 5 * rows * width, backward),
    ]
}

/// Rows are read and written; in backward the rows of the table that occur are read and written.
fn embedding(sizes: &Sizes) -> Vec<Case> {
    let Decoder { name, width, vocabulary, .. } = sizes.decoders[0];
    let rows = sizes.rows;
    let shape = [("rows", rows), ("width", width), ("vocabulary", vocabulary)];
    // Every second row is of one token, as padding or a common word is.
    let ids = move || -> Vec<u32> {
        (0..rows).map(|row| if row % 2 == 0 { 1 } else { (row * 7919 % vocabulary) as u32 }).collect()
    };
    let forward = move |stream: &Stream| -> Run {
        let (table, tokens) = (random(stream, vocabulary * width), stream.upload(&ids()));
        let mut out = stream.uninit(rows * width);
        Box::new(move |stream| embedding::forward(stream, width, table.view(), tokens.view(), out.view_mut()))
    };
    let backward = move |stream: &Stream| -> Run {
        let (tokens, dout) = (stream.upload(&ids()), random(stream, rows * width));
        let mut dtable = stream.zeros(vocabulary * width);
        Box::new(move |stream| embedding::backward(stream, width, tokens.view(), dout.view(), dtable.view_mut()))
    };
    vec![
        case(format!("embedding forward, {name}"), &shape, 2 * rows * width, forward),
        case(format!("embedding backward, {name}"), &shape, 2 * rows * width, backward),
    ]
}

/// 28 bytes a parameter: it, its gradient and two moments are read, all but the gradient written.
fn adamw(sizes: &Sizes) -> Vec<Case> {
    let len = sizes.parameters;
    let settings = AdamW {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 3,
        gradient_scale: 1.0,
    };
    let prepare = move |stream: &Stream| -> Run {
        let gradient = random(stream, len);
        let (mut parameters, mut first, mut second) = (random(stream, len), random(stream, len), stream.uninit(len));
        stream.fill(second.view_mut(), 0.1);
        Box::new(move |stream| {
            let moments = (first.view_mut(), second.view_mut());
            adamw::step(stream, &settings, gradient.view(), parameters.view_mut(), moments.0, moments.1);
        })
    };
    vec![case("adamw".into(), &[("parameters", len)], 7 * len, prepare)]
}

/// Rewards and values are read, advantages and returns written.
fn gae(sizes: &Sizes) -> Vec<Case> {
    let (episodes, steps) = (sizes.episodes, sizes.steps);
    let len = episodes * steps;
    let prepare = move |stream: &Stream| -> Run {
        let segments = Segments::new(stream, &vec![steps; episodes]);
        let (rewards, values) = (random(stream, len), random(stream, len));
        let (mut advantages, mut returns) = (stream.uninit(len), stream.uninit(len));
        Box::new(move |stream| {
            let discounts = Discounts { gamma: 0.99, lambda: 0.95 };
            let outputs = (advantages.view_mut(), returns.view_mut());
            gae::forward(stream, discounts, &segments, rewards.view(), values.view(), outputs.0, outputs.1);
        })
    };
    vec![case("advantages".into(), &[("episodes", episodes), ("steps", steps)], 4 * len, prepare)]
}

/// Of answers: what is known of each token is read, its gradient written. Sums come back to the host, and are waited for.
fn losses(sizes: &Sizes) -> Vec<Case> {
    let (answers, steps) = (sizes.episodes / 2 * 2, sizes.steps);
    let len = answers * steps;
    let shape = [("answers", answers), ("tokens", steps)];
    let of_ppo = move |stream: &Stream| -> Run {
        let [logp, old, advantages, weights] = [0; 4].map(|_| random(stream, len));
        let mut dlogp = stream.uninit(len);
        Box::new(move |stream| {
            let inputs = [&logp, &old, &advantages, &weights].map(|buffer| buffer.view());
            ppo::policy_loss(stream, Clip::even(0.2), inputs[0], inputs[1], inputs[2], inputs[3], dlogp.view_mut());
        })
    };
    let of_dpo = move |stream: &Stream| -> Run {
        let segments = Segments::new(stream, &vec![steps; answers]);
        let ([logp, reference], mut dlogp) = ([0; 2].map(|_| random(stream, len)), stream.uninit(len));
        let (preference, weight) = (Preference { beta: 0.1, smoothing: 0.0 }, 1.0 / answers as f32);
        Box::new(move |stream| {
            dpo::loss(stream, preference, &segments, logp.view(), reference.view(), weight, dlogp.view_mut());
        })
    };
    vec![case("ppo".into(), &shape, 5 * len, of_ppo), case("dpo".into(), &shape, 3 * len, of_dpo)]
}
