//! Operations over the vocabulary: logits, fused log-probabilities, sampling.

use kernels::logprob::{self, EntropyGradient, Head};
use kernels::sample::{self, Sampling};
use kernels::{Stream, logits};

use crate::reference;
use crate::support::*;

on_every_path![
    log_probabilities_and_their_gradients,
    a_sampled_token_has_the_log_probability_that_training_gives_it,
    a_row_draws_alike_whatever_its_neighbours,
];

/// Largest absolute error of a log-probability.
const LOGP_TOLERANCE: f64 = 1e-4;

/// Rows, vocabulary, width, temperature.
const CASES: [(usize, usize, usize, f32); 7] = [
    (1, 1, 1, 1.0),
    (3, 5, 7, 0.5),
    (97, 41, 96, 1.0),
    (260, 333, 24, 1.3),
    (9, 1025, 64, 0.7),
    (2, 2500, 16, 1.0),
    (1030, 30, 8, 1.0),
];

struct Case {
    head: Head,
    hidden: Vec<f32>,
    weight: Vec<f32>,
    targets: Vec<u32>,
    dlogp: Vec<f32>,
    dentropy: Vec<f32>,
}

impl Case {
    fn new((rows, vocabulary, width, temperature): (usize, usize, usize, f32)) -> Case {
        let mut random = Random::new((rows * vocabulary) as u64);
        Case {
            head: Head { vocabulary, width, temperature },
            hidden: random.floats(rows * width).iter().map(|x| 3.0 * x).collect(),
            weight: random.floats(vocabulary * width),
            targets: random.indices(rows, vocabulary),
            dlogp: random.floats(rows),
            dentropy: random.floats(rows),
        }
    }

    fn run(&self, stream: &Stream, with_entropy: bool) -> Outputs {
        let rows = self.targets.len();
        let (hidden, weight, targets) =
            (upload(stream, &self.hidden), upload(stream, &self.weight), upload(stream, &self.targets));
        let (mut logp, mut lse, mut entropy) = (stream.uninit(rows), stream.uninit(rows), stream.uninit(rows));
        let wanted = Some(entropy.view_mut());
        let (hidden, weight, targets) = (hidden.view(), weight.view(), targets.view());
        logprob::forward(stream, self.head, hidden, weight, targets, logp.view_mut(), lse.view_mut(), wanted);
        let (dlogp, dentropy) = (upload(stream, &self.dlogp), upload(stream, &self.dentropy));
        let (mut dhidden, mut dweight) = (stream.uninit(self.hidden.len()), stream.zeros(self.weight.len()));
        let gradient = with_entropy.then_some(EntropyGradient { entropy: entropy.view(), dentropy: dentropy.view() });
        let (lse_view, dhidden_view, dweight_view) = (lse.view(), dhidden.view_mut(), dweight.view_mut());
        logprob::backward(
            stream,
            self.head,
            hidden,
            weight,
            targets,
            lse_view,
            dlogp.view(),
            gradient,
            dhidden_view,
            Some(dweight_view),
        );
        let buffers = [("logp", logp), ("lse", lse), ("entropy", entropy), ("dhidden", dhidden), ("dweight", dweight)];
        buffers.iter().map(|(name, buffer)| (*name, download(stream, buffer))).collect()
    }

    fn reference(&self, hidden: &[f64], weight: &[f64]) -> Vec<reference::Row> {
        reference::logprob(self.head.width, f64::from(self.head.temperature), hidden, weight, &self.targets)
    }

    fn loss(&self, hidden: &[f64], weight: &[f64], with_entropy: bool) -> f64 {
        let kept = if with_entropy { 1.0 } else { 0.0 };
        let terms = self.reference(hidden, weight).into_iter().zip(self.dlogp.iter().zip(&self.dentropy));
        terms
            .map(|(row, (&dlogp, &dentropy))| row.logp * f64::from(dlogp) + kept * row.entropy * f64::from(dentropy))
            .sum()
    }
}

fn log_probabilities_and_their_gradients(subject: Subject) {
    for shape in CASES {
        let case = Case::new(shape);
        for with_entropy in [false, true] {
            let outputs = subject.run(|stream| case.run(stream, with_entropy));
            let (hidden, weight) = (wide(&case.hidden), wide(&case.weight));
            let expected = case.reference(&hidden, &weight);
            let column = |of: fn(&reference::Row) -> f64| expected.iter().map(of).collect::<Vec<_>>();
            assert_within("logp", output(&outputs, "logp"), &column(|row| row.logp), LOGP_TOLERANCE);
            assert_within("lse", output(&outputs, "lse"), &column(|row| row.lse), LOGP_TOLERANCE);
            assert_within("entropy", output(&outputs, "entropy"), &column(|row| row.entropy), LOGP_TOLERANCE);
            if shape.1 > 1 {
                let of = |name: &str| format!("{name} of {shape:?}");
                let loss = |hidden: &[f64], weight: &[f64]| case.loss(hidden, weight, with_entropy);
                assert_gradient(&of("dhidden"), output(&outputs, "dhidden"), &case.hidden, |hidden| {
                    loss(hidden, &weight)
                });
                assert_gradient(&of("dweight"), output(&outputs, "dweight"), &case.weight, |weight| {
                    loss(&hidden, weight)
                });
            }
        }
    }
}

fn a_sampled_token_has_the_log_probability_that_training_gives_it(subject: Subject) {
    for shape in CASES {
        let case = Case::new(shape);
        let (rows, vocabulary, width, temperature) = shape;
        let outputs = subject.run(|stream| {
            let (hidden, weight) = (upload(stream, &case.hidden), upload(stream, &case.weight));
            let mut scores = stream.uninit(rows * vocabulary);
            logits::forward(stream, rows, vocabulary, width, hidden.view(), weight.view(), scores.view_mut());
            let seeds = upload(stream, &(0..rows as u64).collect::<Vec<_>>());
            let counters = upload(stream, &vec![5u64; rows]);
            let (mut tokens, mut drawn, mut lse) = (stream.uninit(rows), stream.uninit(rows), stream.uninit(rows));
            let sampling = Sampling::at(temperature);
            let (tokens_view, drawn_view) = (tokens.view_mut(), drawn.view_mut());
            sample::forward(
                stream,
                vocabulary,
                &sampling,
                scores.view(),
                seeds.view(),
                counters.view(),
                tokens_view,
                drawn_view,
            );
            let mut trained = stream.uninit(rows);
            let (hidden, weight) = (hidden.view(), weight.view());
            let (trained_view, lse_view) = (trained.view_mut(), lse.view_mut());
            logprob::forward(stream, case.head, hidden, weight, tokens.view(), trained_view, lse_view, None);
            vec![("drawn", download(stream, &drawn)), ("trained", download(stream, &trained))]
        });
        assert_eq!(output(&outputs, "drawn"), output(&outputs, "trained"), "{shape:?}");
    }
}

fn a_row_draws_alike_whatever_its_neighbours(subject: Subject) {
    let (rows, vocabulary) = (60, 41);
    let scores = Random::new(1).floats(rows * vocabulary);
    let seeds: Vec<u64> = (0..rows as u64).map(|row| row * row).collect();
    let draw = |range: std::ops::Range<usize>| {
        let outputs = subject.run(|stream| {
            let logits = upload(stream, &scores[range.start * vocabulary..range.end * vocabulary]);
            let (seeds, counters) = (upload(stream, &seeds[range.clone()]), upload(stream, &vec![3u64; range.len()]));
            let (mut tokens, mut logp) = (stream.uninit(range.len()), stream.uninit(range.len()));
            let (sampling, keys) = (Sampling { top_p: 0.9, ..Sampling::at(0.8) }, (seeds.view(), counters.view()));
            sample::forward(
                stream,
                vocabulary,
                &sampling,
                logits.view(),
                keys.0,
                keys.1,
                tokens.view_mut(),
                logp.view_mut(),
            );
            vec![("tokens", stream.download(tokens.view()).iter().map(|&token| token as f32).collect())]
        });
        output(&outputs, "tokens").to_vec()
    };
    assert_eq!(draw(0..rows)[17..23], draw(17..23));
}
