//! Operations over the vocabulary: logits, fused log-probabilities, sampling.

use kernels::logprob::{self, EntropyGradient, Head};
use kernels::sample::{self, Sampling};
use kernels::{Precision, Stream, logits};

use crate::reference;
use crate::support::*;

on_every_path![
    log_probabilities_and_their_gradients,
    log_probabilities_in_bf16,
    a_row_has_its_log_probability_alone_and_among_others,
    a_row_that_is_no_number_leaves_the_others_theirs,
    gradients_of_hidden_need_none_of_the_weights,
    many_rows_and_many_columns_go_in_pieces,
    logits_are_never_stored,
    a_target_past_the_vocabulary_is_refused,
    the_head_of_nothing_is_nothing,
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

    /// What bf16 products see of it.
    fn rounded(&self) -> Case {
        let nearest = |values: &[f32]| values.iter().map(|&value| half::bf16::from_f32(value).to_f32()).collect();
        Case { hidden: nearest(&self.hidden), weight: nearest(&self.weight), ..self.part(0..self.targets.len()) }
    }

    /// Some of its rows.
    fn part(&self, rows: std::ops::Range<usize>) -> Case {
        let width = self.head.width;
        Case {
            head: self.head,
            hidden: self.hidden[rows.start * width..rows.end * width].to_vec(),
            weight: self.weight.clone(),
            targets: self.targets[rows.clone()].to_vec(),
            dlogp: self.dlogp[rows.clone()].to_vec(),
            dentropy: self.dentropy[rows].to_vec(),
        }
    }

    fn run(&self, stream: &Stream, with_entropy: bool) -> Outputs {
        self.run_backward(stream, with_entropy, true)
    }

    /// Forward alone.
    fn score(&self, stream: &Stream) -> Outputs {
        let rows = self.targets.len();
        let (hidden, weight, targets) =
            (upload(stream, &self.hidden), upload(stream, &self.weight), upload(stream, &self.targets));
        let (mut logp, mut lse, mut entropy) = (stream.uninit(rows), stream.uninit(rows), stream.uninit(rows));
        let (inputs, wanted) = ((hidden.view(), weight.view(), targets.view()), Some(entropy.view_mut()));
        logprob::forward(stream, self.head, inputs.0, inputs.1, inputs.2, logp.view_mut(), lse.view_mut(), wanted);
        let buffers = [("logp", logp), ("lse", lse), ("entropy", entropy)];
        buffers.iter().map(|(name, buffer)| (*name, download(stream, buffer))).collect()
    }

    /// Forward and backward, which adds to zeros in dweight where that is wanted.
    fn run_backward(&self, stream: &Stream, with_entropy: bool, with_weight: bool) -> Outputs {
        let mut outputs = self.score(stream);
        let saved = |name: &str| upload(stream, output(&outputs, name));
        let (hidden, weight, targets) =
            (upload(stream, &self.hidden), upload(stream, &self.weight), upload(stream, &self.targets));
        let (lse, entropy) = (saved("lse"), saved("entropy"));
        let (dlogp, dentropy) = (upload(stream, &self.dlogp), upload(stream, &self.dentropy));
        let (mut dhidden, mut dweight) = (stream.uninit(self.hidden.len()), stream.zeros(self.weight.len()));
        let gradient = with_entropy.then_some(EntropyGradient { entropy: entropy.view(), dentropy: dentropy.view() });
        let inputs = (hidden.view(), weight.view(), targets.view());
        let (to_hidden, to_weight) = (dhidden.view_mut(), with_weight.then_some(dweight.view_mut()));
        logprob::backward(
            stream,
            self.head,
            inputs.0,
            inputs.1,
            inputs.2,
            lse.view(),
            dlogp.view(),
            gradient,
            to_hidden,
            to_weight,
        );
        outputs.extend([("dhidden", download(stream, &dhidden)), ("dweight", download(stream, &dweight))]);
        outputs
    }

    /// dhidden and dweight by the formula: dz = dlogp·(onehot − p) − dentropy·p·(log p + entropy), z = logits / temperature.
    fn gradients(&self, hidden: &[f64], weight: &[f64], with_entropy: bool) -> (Vec<f64>, Vec<f64>) {
        let Head { width, temperature, .. } = self.head;
        let (mut dhidden, mut dweight) = (vec![0.0; hidden.len()], vec![0.0; weight.len()]);
        for (row, seen) in self.reference(hidden, weight).iter().enumerate() {
            let (here, target) = (row * width..(row + 1) * width, self.targets[row] as usize);
            let (dlogp, dentropy) = (f64::from(self.dlogp[row]), f64::from(self.dentropy[row]));
            for (column, weights) in weight.chunks(width).enumerate() {
                let dot: f64 = hidden[here.clone()].iter().zip(weights).map(|(h, w)| h * w).sum();
                let log_share = dot / f64::from(temperature) - seen.lse;
                let chosen = if column == target { 1.0 } else { 0.0 };
                let of_entropy =
                    if with_entropy { dentropy * log_share.exp() * (log_share + seen.entropy) } else { 0.0 };
                let slope = (dlogp * (chosen - log_share.exp()) - of_entropy) / f64::from(temperature);
                for (place, weight) in here.clone().zip(weights) {
                    dhidden[place] += slope * weight;
                    dweight[column * width + place - here.start] += slope * hidden[place];
                }
            }
        }
        (dhidden, dweight)
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

/// How far outputs and gradients may be off.
struct Bounds {
    logp: f64,
    gradient: f64,
}

const EXACT: Bounds = Bounds { logp: LOGP_TOLERANCE, gradient: TOLERANCE };
/// Of rounded factors; their logits' gradients are rounded on the way to the products.
const HALF: Bounds = Bounds { logp: LOGP_TOLERANCE, gradient: HALF_GRADIENT_TOLERANCE };

/// Outputs against the definition, gradients against derivatives of the whole loss: all of them by the formula, some by
/// finite differences.
fn check(case: &Case, with_entropy: bool, outputs: &Outputs, bounds: &Bounds) {
    let (hidden, weight) = (wide(&case.hidden), wide(&case.weight));
    let expected = case.reference(&hidden, &weight);
    let column = |of: fn(&reference::Row) -> f64| expected.iter().map(of).collect::<Vec<_>>();
    assert_within("logp", output(outputs, "logp"), &column(|row| row.logp), bounds.logp);
    assert_within("lse", output(outputs, "lse"), &column(|row| row.lse), bounds.logp);
    assert_within("entropy", output(outputs, "entropy"), &column(|row| row.entropy), bounds.logp);
    if case.head.vocabulary == 1 {
        return;
    }
    let what = |name: &str| format!("{name} of {:?}, {} rows", case.head, case.targets.len());
    let (dhidden, dweight) = case.gradients(&hidden, &weight, with_entropy);
    assert_close(&what("dhidden"), output(outputs, "dhidden"), &dhidden, bounds.gradient);
    assert_close(&what("dweight"), output(outputs, "dweight"), &dweight, bounds.gradient);
    let loss = |hidden: &[f64], weight: &[f64]| case.loss(hidden, weight, with_entropy);
    let (dhidden, dweight) = (output(outputs, "dhidden"), output(outputs, "dweight"));
    assert_gradient_within(&what("dhidden"), dhidden, &case.hidden, bounds.gradient, |hidden| loss(hidden, &weight));
    assert_gradient_within(&what("dweight"), dweight, &case.weight, bounds.gradient, |weight| loss(&hidden, weight));
}

fn log_probabilities_and_their_gradients(subject: Subject) {
    for shape in CASES {
        let case = Case::new(shape);
        for with_entropy in [false, true] {
            let outputs = subject.run(|stream| case.run(stream, with_entropy));
            check(&case, with_entropy, &outputs, &EXACT);
        }
    }
}

fn log_probabilities_in_bf16(subject: Subject) {
    for (shape, with_entropy) in CASES.into_iter().zip([false, true].into_iter().cycle()) {
        let case = Case::new(shape);
        let outputs = subject.run_in(Precision::Bf16, |stream| case.run(stream, with_entropy));
        check(&case.rounded(), with_entropy, &outputs, &HALF);
    }
}

/// More rows than backward takes at once, and more columns.
fn many_rows_and_many_columns_go_in_pieces(subject: Subject) {
    for (shape, precision, bounds) in
        [((4100, 5, 3, 1.0), Precision::F32, EXACT), ((5, 8205, 3, 0.9), Precision::Bf16, HALF)]
    {
        let case = Case::new(shape);
        let outputs = subject.run_in(precision, |stream| case.run(stream, true));
        let seen = if precision == Precision::F32 { case } else { case.rounded() };
        check(&seen, true, &outputs, &bounds);
    }
}

/// What keeps the first ratio of PPO at exactly 1, however rows are dealt into minibatches.
fn a_row_has_its_log_probability_alone_and_among_others(subject: Subject) {
    let case = Case::new((150, 1030, 33, 1.0));
    for precision in [Precision::F32, Precision::Bf16] {
        let logp = |rows: std::ops::Range<usize>| {
            let outputs = subject.run_in(precision, |stream| case.part(rows.clone()).score(stream));
            outputs.into_iter().map(|(_, values)| values).collect::<Vec<_>>()
        };
        let all = logp(0..150);
        for rows in [0..1, 140..150, 63..66] {
            for (part, all) in logp(rows.clone()).iter().zip(&all) {
                assert_eq!(part, &all[rows.clone()], "{rows:?} in {precision:?}");
            }
        }
    }
}

fn a_row_that_is_no_number_leaves_the_others_theirs(subject: Subject) {
    let whole = Case::new((150, 1030, 33, 1.0));
    let (row, width) = (66, whole.head.width);
    let others = |stream: &Stream, value: f32| {
        let mut case = whole.part(0..150);
        case.hidden[row * width..(row + 1) * width].fill(value);
        let outputs = case.run(stream, true).into_iter().filter(|(name, _)| *name != "dweight");
        let without_row = |values: Vec<f32>| {
            let here = row * values.len() / 150..(row + 1) * values.len() / 150;
            [&values[..here.start], &values[here.end..]].concat()
        };
        outputs.map(|(name, values)| (name, without_row(values))).collect::<Outputs>()
    };
    for precision in [Precision::F32, Precision::Bf16] {
        let expected = subject.run_in(precision, |stream| others(stream, 0.5));
        for value in [f32::NAN, f32::INFINITY] {
            let outputs = subject.run_in(precision, |stream| others(stream, value));
            assert_eq!(outputs, expected, "beside {value} in {precision:?}");
        }
    }
}

fn gradients_of_hidden_need_none_of_the_weights(subject: Subject) {
    let case = Case::new((70, 41, 24, 1.0));
    for precision in [Precision::F32, Precision::Bf16] {
        subject.run_in(precision, |stream| {
            let both = case.run(stream, false);
            let alone = case.run_backward(stream, false, false);
            assert_eq!(output(&both, "dhidden"), output(&alone, "dhidden"));
            alone
        });
    }
}

/// All that is allocated, inputs and outputs included, is less than tokens × vocabulary in bf16. A GPU's count is of all
/// tests together, so it says nothing of one.
fn logits_are_never_stored(subject: Subject) {
    let (rows, vocabulary) = (33, 24_000);
    let case = Case::new((rows, vocabulary, 1, 1.0));
    for precision in [Precision::F32, Precision::Bf16] {
        subject.run_in(precision, |stream| {
            let outputs = case.run(stream, false);
            if let Some((_, most)) = stream.device().memory_used().filter(|_| subject != Subject::Cuda) {
                let logits_bytes = (rows * vocabulary * size_of::<u16>()) as u64;
                assert!(most < logits_bytes, "{most} bytes in {precision:?}, logits would be {logits_bytes}");
            }
            outputs
        });
    }
}

/// The kernel stops, which a GPU's context does not outlive: not tried there.
fn a_target_past_the_vocabulary_is_refused(subject: Subject) {
    if subject == Subject::Cuda {
        return;
    }
    let mut case = Case::new((3, 5, 7, 1.0));
    case.targets[1] = 5;
    for precision in [Precision::F32, Precision::Bf16] {
        let scored = std::panic::catch_unwind(|| subject.run_in(precision, |stream| case.score(stream)));
        assert!(scored.is_err(), "{precision:?}");
    }
}

fn the_head_of_nothing_is_nothing(subject: Subject) {
    for precision in [Precision::F32, Precision::Bf16] {
        let case = Case::new((0, 5, 7, 1.0));
        let outputs = subject.run_in(precision, |stream| case.run(stream, true));
        assert!(output(&outputs, "logp").is_empty() && output(&outputs, "dweight").iter().all(|&value| value == 0.0));
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
        let (drawn, trained) = (output(&outputs, "drawn"), output(&outputs, "trained"));
        if subject.is_accelerated() {
            // Two kernels with two orders of one sum.
            assert_within("drawn", drawn, &wide(trained), LOGP_TOLERANCE);
        } else {
            assert_eq!(drawn, trained, "{shape:?}");
        }
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
