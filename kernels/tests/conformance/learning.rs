//! What training does besides the decoder: advantages, PPO's losses, the optimizer.

use half::bf16;
use kernels::adamw::{self, AdamW};
use kernels::gae::{self, Discounts};
use kernels::ppo::{self, Clip, PolicyLoss, ValueLoss};
use kernels::{Buffer, Device, Segments, Stream};

use crate::reference;
use crate::support::*;

on_every_device![
    advantages_over_ragged_rows,
    the_policy_loss_is_the_clipped_objective,
    a_policy_that_has_not_moved_has_ratio_one_and_plain_gradients,
    a_batch_without_weight_teaches_nothing,
    the_value_loss_is_clipped_around_the_old_value,
    adamw_takes_the_papers_steps,
    adamw_in_half_precision_rounds_at_random_and_is_right_on_average,
];

fn advantages_over_ragged_rows(subject: Subject) {
    for ((gamma, lambda), lengths) in [
        ((1.0, 1.0), &[1, 7, 0, 150, 3][..]),
        ((0.99, 0.95), &[1, 7, 0, 150, 3]),
        ((0.9, 0.0), &[0, 31, 32, 33, 64, 0]),
        ((0.999, 0.99), &[1025]),
        ((1.0, 1.0), &[]),
    ] {
        let tokens: usize = lengths.iter().sum();
        let mut random = Random::new(11);
        let (rewards, values) = (random.floats(tokens), random.floats(tokens));
        let outputs = subject.run(|stream| {
            let segments = Segments::new(stream, lengths);
            let (rewards, values) = (upload(stream, &rewards), upload(stream, &values));
            let (mut advantages, mut returns) = (stream.uninit(tokens), stream.uninit(tokens));
            let (discounts, outputs) = (Discounts { gamma, lambda }, (advantages.view_mut(), returns.view_mut()));
            gae::forward(stream, discounts, &segments, rewards.view(), values.view(), outputs.0, outputs.1);
            vec![("advantages", download(stream, &advantages)), ("returns", download(stream, &returns))]
        });
        let (mut expected, mut first) = (Vec::new(), 0);
        for &length in lengths {
            let part = first..first + length;
            let (rewards, values) = (wide(&rewards[part.clone()]), wide(&values[part]));
            expected.extend(reference::gae(f64::from(gamma), f64::from(lambda), &rewards, &values));
            first += length;
        }
        assert_close("advantages", output(&outputs, "advantages"), &expected, 1e-6);
        let returns: Vec<f64> = expected.iter().zip(&values).map(|(a, &v)| a + f64::from(v)).collect();
        assert_close("returns", output(&outputs, "returns"), &returns, 1e-6);
    }
}

struct Policy {
    logp: Vec<f32>,
    old: Vec<f32>,
    advantages: Vec<f32>,
    weights: Vec<f32>,
}

impl Policy {
    fn random(len: usize) -> Policy {
        let mut random = Random::new(len as u64);
        let old: Vec<f32> = random.floats(len).iter().map(|x| 2.0 * x - 2.0).collect();
        let logp = old.iter().map(|old| old + 0.6 * (random.unit() as f32 - 0.5)).collect();
        let weights = (0..len).map(|index| if index % 5 == 3 { 0.0 } else { random.unit() as f32 }).collect();
        Policy { logp, old, advantages: random.floats(len), weights }
    }

    /// The clipped objective as the paper writes it: the smaller of two terms, to be made large.
    fn objective(&self, clip: f64, logp: &[f64]) -> f64 {
        let term = |n: usize| {
            let (ratio, advantage) = ((logp[n] - f64::from(self.old[n])).exp(), f64::from(self.advantages[n]));
            let bounded = ratio.max(1.0 - clip).min(1.0 + clip);
            f64::from(self.weights[n]) * (ratio * advantage).min(bounded * advantage)
        };
        -(0..logp.len()).map(term).sum::<f64>()
    }
}

fn the_policy_loss_is_the_clipped_objective(subject: Subject) {
    for (len, clip) in [(0, 0.2f32), (1, 0.2), (40, 0.2), (500, 0.05), (769, 0.3)] {
        let policy = Policy::random(len);
        let losses = std::sync::Mutex::new(PolicyLoss::default());
        let outputs = subject.run(|stream| {
            let inputs = [&policy.logp, &policy.old, &policy.advantages, &policy.weights].map(|x| upload(stream, x));
            let [logp, old, advantages, weights] = inputs.each_ref().map(|buffer| buffer.view());
            let mut dlogp = stream.uninit(len);
            *losses.lock().unwrap() =
                ppo::policy_loss(stream, Clip::even(clip), logp, old, advantages, weights, dlogp.view_mut());
            vec![("dlogp", download(stream, &dlogp))]
        });
        let (loss, clip) = (*losses.lock().unwrap(), f64::from(clip));
        let ratio = |n: usize| (f64::from(policy.logp[n]) - f64::from(policy.old[n])).exp();
        let weighted =
            |of: &dyn Fn(f64) -> f64| (0..len).map(|n| f64::from(policy.weights[n]) * of(ratio(n))).sum::<f64>();
        assert!((loss.loss - policy.objective(clip, &wide(&policy.logp))).abs() < 1e-9);
        assert!((loss.clipped - weighted(&|r| f64::from(r < 1.0 - clip || r > 1.0 + clip))).abs() < 1e-9);
        assert!((loss.kl - weighted(&|r| r - 1.0 - r.ln())).abs() < 1e-9);
        assert!((loss.weight - weighted(&|_| 1.0)).abs() < 1e-9);
        assert_gradient("dlogp", output(&outputs, "dlogp"), &policy.logp, |logp| policy.objective(clip, logp));
    }
}

fn a_policy_that_has_not_moved_has_ratio_one_and_plain_gradients(subject: Subject) {
    let policy = Policy::random(30);
    subject.run(|stream| {
        let inputs = [&policy.old, &policy.advantages, &policy.weights].map(|x| upload(stream, x));
        let [old, advantages, weights] = inputs.each_ref().map(|buffer| buffer.view());
        let mut dlogp = stream.uninit(30);
        let loss = ppo::policy_loss(stream, Clip::even(0.2), old, old, advantages, weights, dlogp.view_mut());
        assert_eq!((loss.ratio_max, loss.kl, loss.clipped), (1.0, 0.0, 0.0));
        let expected: Vec<f32> = policy.advantages.iter().zip(&policy.weights).map(|(a, w)| -a * w).collect();
        assert_within("dlogp", &download(stream, &dlogp), &wide(&expected), 1e-7);
        vec![]
    });
}

fn a_batch_without_weight_teaches_nothing(subject: Subject) {
    let policy = Policy::random(300);
    subject.run(|stream| {
        let inputs = [&policy.logp, &policy.old, &policy.advantages, &vec![0.0; 300]].map(|x| upload(stream, x));
        let [logp, old, advantages, weights] = inputs.each_ref().map(|buffer| buffer.view());
        let mut dlogp = stream.uninit(300);
        let loss = ppo::policy_loss(stream, Clip::even(0.2), logp, old, advantages, weights, dlogp.view_mut());
        assert_eq!(loss, PolicyLoss::default());
        assert!(download(stream, &dlogp).iter().all(|&gradient| gradient == 0.0));
        let loss = ppo::value_loss(stream, Some(0.2), logp, old, advantages, weights, dlogp.view_mut());
        assert_eq!(loss, ValueLoss::default());
        assert!(download(stream, &dlogp).iter().all(|&gradient| gradient == 0.0));
        vec![]
    });
}

fn the_value_loss_is_clipped_around_the_old_value(subject: Subject) {
    for clip in [None, Some(0.2f32)] {
        let len = 300;
        let mut random = Random::new(8);
        let [values, old, returns] = [1.0, 1.0, 2.0].map(|scale: f32| {
            let values: Vec<f32> = random.floats(len).iter().map(|x| scale * x).collect();
            values
        });
        let weights: Vec<f32> = (0..len).map(|_| random.unit() as f32).collect();
        let losses = std::sync::Mutex::new(ValueLoss::default());
        let outputs = subject.run(|stream| {
            let inputs = [&values, &old, &returns, &weights].map(|x| upload(stream, x));
            let [values, old, returns, weights] = inputs.each_ref().map(|buffer| buffer.view());
            let mut dvalues = stream.uninit(len);
            *losses.lock().unwrap() = ppo::value_loss(stream, clip, values, old, returns, weights, dvalues.view_mut());
            vec![("dvalues", download(stream, &dvalues))]
        });
        let definition = |values: &[f64]| -> f64 {
            let term = |n: usize| {
                let (old, target) = (f64::from(old[n]), f64::from(returns[n]));
                let near =
                    clip.map_or(values[n], |clip| values[n].min(old + f64::from(clip)).max(old - f64::from(clip)));
                0.5 * f64::from(weights[n]) * (values[n] - target).powi(2).max((near - target).powi(2))
            };
            (0..len).map(term).sum()
        };
        let loss = *losses.lock().unwrap();
        assert!((loss.loss - definition(&wide(&values))).abs() < 1e-9);
        assert_eq!(loss.clipped > 0.0, clip.is_some());
        assert_gradient("dvalues", output(&outputs, "dvalues"), &values, definition);
    }
}

fn adamw_takes_the_papers_steps(subject: Subject) {
    let len = 20_001;
    let mut random = Random::new(5);
    let (start, gradients) = (random.floats(len), [random.floats(len), random.floats(len), random.floats(len)]);
    let settings = AdamW {
        learning_rate: 3e-3,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 0,
        gradient_scale: 0.5,
    };
    let outputs = subject.run(|stream| {
        let mut parameters = upload(stream, &start);
        let (mut first, mut second) = (stream.zeros(len), stream.zeros(len));
        for (step, gradient) in gradients.iter().enumerate() {
            let gradient = upload(stream, gradient);
            let settings = AdamW { step: step as u64 + 1, ..settings };
            let moments = (first.view_mut(), second.view_mut());
            adamw::step(stream, &settings, gradient.view(), parameters.view_mut(), moments.0, moments.1);
        }
        vec![("parameters", download(stream, &parameters))]
    });
    let after = |index: usize| {
        let (mut x, mut m, mut v) = (f64::from(start[index]), 0.0f64, 0.0f64);
        for (step, gradient) in gradients.iter().enumerate() {
            let g = 0.5 * f64::from(gradient[index]);
            (m, v) = (0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g);
            let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(step as i32 + 1)), v / (1.0 - 0.95f64.powi(step as i32 + 1)));
            x -= 3e-3 * (m_hat / (v_hat.sqrt() + 1e-8) + 0.1 * x);
        }
        x
    };
    assert_close("parameters", output(&outputs, "parameters"), &(0..len).map(after).collect::<Vec<_>>(), 1e-6);
}

const HALF_SETTINGS: AdamW = AdamW {
    learning_rate: 1e-4,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.1,
    step: 3,
    gradient_scale: 0.5,
};

/// Parameters and moments after a step of float64 from `before`.
fn exact_step(gradient: f32, before: [f64; 3]) -> [f64; 3] {
    let (g, [x, m, v]) = (0.5 * f64::from(gradient), before);
    let (beta1, beta2, rate) = (f64::from(0.9f32), f64::from(0.999f32), f64::from(1e-4f32));
    let (m, v) = (beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * g * g);
    let (m_hat, v_hat) = (m / (1.0 - beta1.powi(3)), v / (1.0 - beta2.powi(3)));
    [x - rate * (m_hat / (v_hat.sqrt() + 1e-8) + f64::from(0.1f32) * x), m, v]
}

fn adamw_in_half_precision_rounds_at_random_and_is_right_on_average(subject: Subject) {
    let len = 20_001;
    let mut random = Random::new(6);
    let gradient = random.floats(len);
    let halves = |values: Vec<f32>| values.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
    let before =
        [random.floats(len), random.floats(len), random.floats(len).iter().map(|x| x * x).collect()].map(halves);
    let run = |stream: &Stream| {
        let gradient = upload(stream, &gradient);
        let [mut parameters, mut first, mut second] = before.each_ref().map(|values| upload(stream, values));
        let views = (parameters.view_mut(), first.view_mut(), second.view_mut());
        adamw::step_half(stream, &HALF_SETTINGS, 77, gradient.view(), views.0, views.1, views.2);
        let values = |buffer: &Buffer<bf16>| stream.download(buffer.view()).iter().map(|half| half.to_f32()).collect();
        vec![("parameters", values(&parameters)), ("first", values(&first)), ("second", values(&second))]
    };
    let outputs = subject.run(run);
    for (which, name) in ["parameters", "first", "second"].into_iter().enumerate() {
        let (mut drift, mut moved) = (0.0, 0);
        for (index, &after) in output(&outputs, name).iter().enumerate() {
            let start = before.each_ref().map(|values| values[index].to_f64());
            let exact = exact_step(gradient[index], start)[which];
            let digit = (exact.abs().log2().floor() - 7.0).exp2(); // a unit in the last of a bf16's 8 digits
            let error = (f64::from(after) - exact) / digit;
            assert!(error.abs() < 1.001, "{name}[{index}]: {after} for {exact}");
            drift += error;
            moved += usize::from(f64::from(after) != start[which]);
        }
        // The error's variance is below 1/4.
        let bound = 5.0 * 0.5 / (len as f64).sqrt();
        assert!((drift / len as f64).abs() < bound, "{name}: {} of a digit on average", drift / len as f64);
        assert!(moved > 0, "{name} stood still");
    }
    let reference = run(&Device::cpu(Some(1)).stream());
    let differ = |(a, b): &(&f32, &f32)| a != b;
    for (name, values) in &outputs {
        let differing = values.iter().zip(output(&reference, name)).filter(differ).count();
        assert!(differing * 1000 <= len, "{name}: {differing} of {len} differ from the CPU's");
    }
}
