//! Draws: the CPU's tokens on every device, and those that the definition gives in float64.

use kernels::sample::{self, Sampling};
use kernels::{Device, Stream, philox};

use crate::support::*;

on_every_device![
    draws_follow_the_definition,
    the_largest_logit_is_the_first_of_its_equals,
    masked_tokens_are_never_drawn,
    a_share_of_nothing_keeps_the_likeliest,
    logits_that_are_no_numbers_end_the_draw,
];

/// Rows and vocabularies: one token, less than a warp, no multiple of 8, pieces of 1,024 that are whole and not, more pieces than
/// lanes.
const SHAPES: [(usize, usize); 7] = [(3, 1), (8, 5), (4, 41), (1, 1024), (2, 1025), (1, 2501), (1, 34_000)];

const ALL: Sampling = Sampling { temperature: 0.7, top_k: 0, top_p: 1.0, min_p: 0.0 };
const SETTINGS: [Sampling; 8] = [
    ALL,
    Sampling { temperature: 1.3, ..ALL },
    Sampling { top_k: 3, ..ALL },
    Sampling { top_k: 40, ..ALL },
    Sampling { top_p: 0.6, ..ALL },
    Sampling { top_p: 0.95, ..ALL },
    Sampling { min_p: 0.3, ..ALL },
    Sampling { top_k: 20, top_p: 0.9, min_p: 0.05, ..ALL },
];

/// Seed and counter of a row, of which every word counts.
fn key(row: usize) -> (u64, u64) {
    ((row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), 5 + ((row as u64) << 33))
}

/// What `forward` draws: tokens, and their log-probabilities.
fn draw(stream: &Stream, vocabulary: usize, sampling: &Sampling, scores: &[f32]) -> (Vec<u32>, Vec<f32>) {
    let rows = scores.len() / vocabulary;
    let logits = upload(stream, scores);
    let (seeds, counters): (Vec<u64>, Vec<u64>) = (0..rows).map(key).unzip();
    let (seeds, counters) = (upload(stream, &seeds), upload(stream, &counters));
    let (mut tokens, mut logp) = (stream.uninit(rows), stream.uninit(rows));
    let (keys, outputs) = ((seeds.view(), counters.view()), (tokens.view_mut(), logp.view_mut()));
    sample::forward(stream, vocabulary, sampling, logits.view(), keys.0, keys.1, outputs.0, outputs.1);
    (stream.download(tokens.view()), download(stream, &logp))
}

/// The same everywhere, as outputs.
fn draw_on(subject: Subject, vocabulary: usize, sampling: &Sampling, scores: &[f32]) -> (Vec<u32>, Vec<f32>) {
    let outputs = subject.run(|stream| {
        let (tokens, logp) = draw(stream, vocabulary, sampling, scores);
        vec![("tokens", tokens.iter().map(|&token| token as f32).collect()), ("logp", logp)]
    });
    let tokens = output(&outputs, "tokens").iter().map(|&token| token as u32).collect();
    (tokens, output(&outputs, "logp").to_vec())
}

/// e^(logit / temperature) of each token, over their sum.
fn shares(logits: &[f32], temperature: f64) -> Vec<f64> {
    let scaled: Vec<f64> = wide(logits).iter().map(|logit| logit / temperature).collect();
    let sum = crate::reference::log_sum_exp(&scaled);
    scaled.iter().map(|logit| (logit - sum).exp()).collect()
}

/// Closer than this to where a decision turns, f32 may take either side.
const CLEAR: f64 = 1e-5;

/// Which tokens the filters keep; `None` where that is too close to call.
fn kept(sampling: &Sampling, shares: &[f64]) -> Option<Vec<bool>> {
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]));
    if sampling.top_k > 0 {
        let edge = order.get(sampling.top_k).map_or(0.0, |&next| shares[next]);
        order.truncate(sampling.top_k);
        (edge < shares[*order.last()?] * (1.0 - CLEAR)).then_some(())?;
    }
    if sampling.top_p < 1.0 {
        let wanted = f64::from(sampling.top_p) * order.iter().map(|&token| shares[token]).sum::<f64>();
        let mut held = 0.0;
        let enough = order.iter().position(|&token| {
            held += shares[token];
            held >= wanted
        });
        let count = enough? + 1;
        let before = held - shares[order[count - 1]];
        (held - wanted > CLEAR && wanted - before > CLEAR).then_some(())?;
        order.truncate(count);
    }
    let least = f64::from(sampling.min_p) * shares[order[0]];
    let close = order.iter().any(|&token| (shares[token] - least).abs() < CLEAR * least);
    order.retain(|&token| shares[token] >= least);
    let mut kept = vec![false; shares.len()];
    order.iter().for_each(|&token| kept[token] = true);
    (!close).then_some(kept)
}

/// The token at `uniform`, candidates side by side in the order of the vocabulary; `None` where that is too close to call.
fn expected(sampling: &Sampling, logits: &[f32], uniform: f64) -> Option<u32> {
    let shares = shares(logits, f64::from(sampling.temperature));
    let kept = kept(sampling, &shares)?;
    let candidates = || (0..shares.len()).filter(|&token| kept[token]);
    let total: f64 = candidates().map(|token| shares[token]).sum();
    let mut left = uniform * total;
    for token in candidates() {
        if left < shares[token] {
            let edges = [left, shares[token] - left];
            let inner = [Some(token) != candidates().next(), Some(token) != candidates().next_back()];
            let close = edges.iter().zip(inner).any(|(&edge, inner)| inner && edge < CLEAR * total);
            return (!close).then_some(token as u32);
        }
        left -= shares[token];
    }
    None
}

fn draws_follow_the_definition(subject: Subject) {
    let (mut checked, mut all) = (0, 0);
    for (rows, vocabulary) in SHAPES {
        let scores: Vec<f32> =
            Random::new(vocabulary as u64).floats(rows * vocabulary).iter().map(|x| 4.0 * x).collect();
        // The longest row takes its time on the emulated device.
        let settings = if vocabulary > 30_000 { &SETTINGS[5..] } else { &SETTINGS[..] };
        for sampling in settings {
            let (tokens, logp) = draw_on(subject, vocabulary, sampling, &scores);
            let reference = draw(&Device::cpu(Some(1)).stream(), vocabulary, sampling, &scores);
            assert_eq!((&tokens, &logp), (&reference.0, &reference.1), "not the CPU's: {vocabulary}, {sampling:?}");
            for (row, logits) in scores.chunks(vocabulary).enumerate() {
                all += 1;
                let share = shares(logits, f64::from(sampling.temperature))[tokens[row] as usize];
                assert_within("logp", &logp[row..row + 1], &[share.ln()], 1e-5);
                if let Some(token) = expected(sampling, logits, philox::uniform(key(row).0, key(row).1)) {
                    checked += 1;
                    assert_eq!(tokens[row], token, "row {row} of {vocabulary}, {sampling:?}");
                }
            }
        }
    }
    assert!(10 * checked > 9 * all, "only {checked} of {all} draws are clear");
}

fn the_largest_logit_is_the_first_of_its_equals(subject: Subject) {
    for vocabulary in [1, 5, 33, 1500, 40_000] {
        let mut scores = Random::new(vocabulary as u64).floats(2 * vocabulary);
        let places = [vocabulary / 3, vocabulary - 1];
        for place in places {
            scores[vocabulary + place] = 2.0;
        }
        let (tokens, logp) = draw_on(subject, vocabulary, &Sampling::GREEDY, &scores);
        let largest = |row: &[f32]| row.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(scores[tokens[0] as usize], largest(&scores[..vocabulary]));
        assert_eq!(tokens[1], places[0] as u32);
        for (row, logits) in scores.chunks(vocabulary).enumerate() {
            assert_within("logp", &logp[row..row + 1], &[shares(logits, 1.0)[tokens[row] as usize].ln()], 1e-5);
        }
    }
}

fn masked_tokens_are_never_drawn(subject: Subject) {
    let vocabulary = 1030;
    let mut scores = Random::new(3).floats(2 * vocabulary);
    for (place, score) in scores.iter_mut().enumerate() {
        *score = if (place % vocabulary) % 7 == 2 { *score } else { f32::NEG_INFINITY };
    }
    for sampling in SETTINGS {
        let (tokens, _) = draw_on(subject, vocabulary, &sampling, &scores);
        assert!(tokens.iter().all(|token| token % 7 == 2), "{tokens:?}: {sampling:?}");
    }
}

fn a_share_of_nothing_keeps_the_likeliest(subject: Subject) {
    let scores: Vec<f32> = (0..300).map(|token| if token == 211 || token == 250 { 1.0 } else { 0.5 }).collect();
    for sampling in [Sampling { top_p: 0.0, ..ALL }, Sampling { top_k: 1, ..ALL }, Sampling { top_p: 1e-9, ..ALL }] {
        assert_eq!(draw_on(subject, 300, &sampling, &scores).0, [211], "{sampling:?}");
    }
    // Of equals, the filters keep those that stand first.
    let equal = vec![0.25; 4 * 300];
    for (sampling, count) in [(Sampling { top_k: 3, ..ALL }, 3), (Sampling { top_p: 0.5, ..ALL }, 150)] {
        let (tokens, _) = draw_on(subject, 300, &sampling, &equal);
        assert!(tokens.iter().all(|&token| token < count), "{tokens:?}: {sampling:?}");
    }
}

/// What comes out means nothing, but it comes out, and as on the CPU.
fn logits_that_are_no_numbers_end_the_draw(subject: Subject) {
    for logits in [vec![f32::NAN; 40], vec![f32::NEG_INFINITY; 40], [vec![0.0; 20], vec![f32::NAN; 20]].concat()] {
        for sampling in [Sampling::GREEDY, ALL, Sampling { top_k: 3, top_p: 0.5, ..ALL }] {
            let run = |stream: &Stream| draw(stream, 40, &sampling, &logits).0;
            let expected = run(&Device::cpu(Some(1)).stream());
            subject.run(|stream| {
                assert_eq!(run(stream), expected, "{sampling:?} of {logits:?}");
                vec![]
            });
        }
    }
}
