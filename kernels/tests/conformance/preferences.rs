//! Losses over whole answers: one ratio an answer, the divergence from a reference, preferences between pairs.

use kernels::Segments;
use kernels::dpo::{self, DpoLoss, Preference};
use kernels::ppo::{self, Clip, PolicyLoss};
use std::sync::Mutex;

use crate::support::*;

on_every_device![
    one_ratio_an_answer_is_clipped_on_its_own_side,
    the_divergence_from_a_reference_is_added_to_the_gradient,
    preferences_are_a_logistic_loss_on_the_margin,
];

const LENGTHS: [usize; 10] = [3, 1, 40, 7, 2, 11, 0, 65, 32, 0];

fn near(random: &mut Random, old: &[f32], spread: f32) -> Vec<f32> {
    old.iter().map(|old| old + spread * (random.unit() as f32 - 0.5)).collect()
}

/// Σ of each answer's numbers.
fn sums(values: &[f64]) -> Vec<f64> {
    let mut rest = values;
    LENGTHS.map(|length| rest.split_off(..length).expect("one number a token").iter().sum()).to_vec()
}

fn one_ratio_an_answer_is_clipped_on_its_own_side(subject: Subject) {
    let tokens = LENGTHS.iter().sum();
    let mut random = Random::new(21);
    let old = random.floats(tokens);
    let logp = near(&mut random, &old, 0.3);
    let (advantages, weights) = (random.floats(LENGTHS.len()), [0.5, 1.0, 0.25, 0.0, 2.0, 1.5, 1.0, 0.5, 1.0, 0.75f32]);
    let clip = Clip { low: 0.1, high: 0.3 };
    let losses = Mutex::new(PolicyLoss::default());
    let outputs = subject.run(|stream| {
        let answers = Segments::new(stream, &LENGTHS);
        let inputs = [&logp[..], &old, &advantages, &weights].map(|x| upload(stream, x));
        let [logp, old, advantages, weights] = inputs.each_ref().map(|buffer| buffer.view());
        let mut dlogp = stream.uninit(tokens);
        let loss = ppo::answer_loss(stream, clip, &answers, logp, old, advantages, weights, dlogp.view_mut());
        *losses.lock().unwrap() = loss;
        vec![("dlogp", download(stream, &dlogp))]
    });
    let old = sums(&wide(&old));
    let ratios =
        |logp: &[f64]| -> Vec<f64> { sums(logp).iter().zip(&old).map(|(new, old)| (new - old).exp()).collect() };
    let objective = |logp: &[f64]| {
        let term = |(answer, ratio): (usize, f64)| {
            let advantage = f64::from(advantages[answer]);
            let bounded = ratio.max(1.0 - f64::from(0.1f32)).min(1.0 + f64::from(0.3f32));
            f64::from(weights[answer]) * (ratio * advantage).min(bounded * advantage)
        };
        -ratios(logp).into_iter().enumerate().map(term).sum::<f64>()
    };
    let loss = *losses.lock().unwrap();
    assert!((loss.loss - objective(&wide(&logp))).abs() < 1e-9, "{loss:?}");
    assert!((loss.weight - 8.5).abs() < 1e-9, "{loss:?}");
    let outside = |(answer, ratio): (usize, &f64)| if *ratio < 0.9 || *ratio > 1.3 { weights[answer] } else { 0.0 };
    let outside: f32 = ratios(&wide(&logp)).iter().enumerate().map(outside).sum();
    assert!(outside > 0.0 && (loss.clipped - f64::from(outside)).abs() < 1e-9, "{loss:?}, not {outside}");
    assert_gradient("dlogp", output(&outputs, "dlogp"), &logp, objective);
}

fn the_divergence_from_a_reference_is_added_to_the_gradient(subject: Subject) {
    let (tokens, beta) = (90, 0.7f32);
    let mut random = Random::new(22);
    let reference = random.floats(tokens);
    let (logp, weights) = (near(&mut random, &reference, 2.0), random.floats(tokens));
    let sum = Mutex::new(0.0);
    let outputs = subject.run(|stream| {
        let inputs = [&logp, &reference, &weights].map(|x| upload(stream, x));
        let [logp, reference, weights] = inputs.each_ref().map(|buffer| buffer.view());
        let mut dlogp = upload(stream, &vec![1.0; tokens]);
        *sum.lock().unwrap() = ppo::kl_loss(stream, beta, logp, reference, weights, dlogp.view_mut());
        vec![("dlogp", download(stream, &dlogp))]
    });
    let divergence = |logp: &[f64]| {
        let term = |n: usize| {
            let away = f64::from(reference[n]) - logp[n];
            f64::from(weights[n]) * (away.exp() - away - 1.0)
        };
        (0..tokens).map(term).sum::<f64>()
    };
    assert!((*sum.lock().unwrap() - divergence(&wide(&logp))).abs() < 1e-9);
    let added: Vec<f32> = output(&outputs, "dlogp").iter().map(|gradient| gradient - 1.0).collect();
    assert_gradient("dlogp", &added, &logp, |logp| f64::from(beta) * divergence(logp));
}

fn preferences_are_a_logistic_loss_on_the_margin(subject: Subject) {
    let tokens = LENGTHS.iter().sum();
    let mut random = Random::new(23);
    let (logp, reference) = (random.floats(tokens), random.floats(tokens));
    for (beta, smoothing) in [(0.1f32, 0.0f32), (1.0, 0.2)] {
        let losses = Mutex::new(DpoLoss::default());
        let outputs = subject.run(|stream| {
            let answers = Segments::new(stream, &LENGTHS);
            let inputs = [&logp, &reference].map(|x| upload(stream, x));
            let mut dlogp = stream.uninit(tokens);
            let preference = Preference { beta, smoothing };
            let views = (inputs[0].view(), inputs[1].view(), dlogp.view_mut());
            *losses.lock().unwrap() = dpo::loss(stream, preference, &answers, views.0, views.1, 0.5, views.2);
            vec![("dlogp", download(stream, &dlogp))]
        });
        let held = sums(&wide(&reference));
        let reward = |logp: &[f64], answer: usize| f64::from(beta) * (sums(logp)[answer] - held[answer]);
        let total = |logp: &[f64]| {
            let pair = |pair: usize| {
                let margin = reward(logp, 2 * pair) - reward(logp, 2 * pair + 1);
                let smoothing = f64::from(smoothing);
                (1.0 - smoothing) * (1.0 + (-margin).exp()).ln() + smoothing * (1.0 + margin.exp()).ln()
            };
            (0..LENGTHS.len() / 2).map(pair).sum::<f64>()
        };
        let (loss, at) = (*losses.lock().unwrap(), wide(&logp));
        assert!((loss.loss - total(&at)).abs() < 1e-9, "{loss:?}");
        assert!(
            (loss.chosen - (0..LENGTHS.len() / 2).map(|pair| reward(&at, 2 * pair)).sum::<f64>()).abs() < 1e-9,
            "{loss:?}"
        );
        assert!(
            (loss.rejected - (0..LENGTHS.len() / 2).map(|pair| reward(&at, 2 * pair + 1)).sum::<f64>()).abs() < 1e-9,
            "{loss:?}"
        );
        let right = (0..LENGTHS.len() / 2).filter(|pair| reward(&at, 2 * pair) > reward(&at, 2 * pair + 1)).count();
        assert_eq!(loss.right, right as f64);
        assert_gradient("dlogp", output(&outputs, "dlogp"), &logp, |logp| 0.5 * total(logp));
    }
}
