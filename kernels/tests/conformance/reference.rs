//! The definitions in plain float64: one loop a formula, nothing shared with the kernels.

use kernels::Heads;

/// C`[m, n]` = A`[m, k]` · B`[k, n]`, by element.
pub fn matmul(
    m: usize,
    n: usize,
    k: usize,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut c = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            c.push((0..k).map(|p| a(i, p) * b(p, j)).sum());
        }
    }
    c
}

pub fn norm(width: usize, epsilon: f64, x: &[f64], weight: &[f64]) -> Vec<f64> {
    let row = |x: &[f64]| {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
        let values: Vec<f64> = x.iter().zip(weight).map(|(x, w)| w * x / (mean + epsilon).sqrt()).collect();
        values
    };
    x.chunks(width).flat_map(row).collect()
}

/// Each query head normed with the first row of `weight`, each key head with the second; values are left alone.
pub fn head_norm(heads: Heads, epsilon: f64, x: &[f64], weight: &[f64]) -> Vec<f64> {
    let (of_queries, of_keys) = weight.split_at(heads.width);
    let head = |(index, head): (usize, &[f64])| match index % (heads.query + 2 * heads.key_value) {
        place if place < heads.query => norm(heads.width, epsilon, head, of_queries),
        place if place < heads.query + heads.key_value => norm(heads.width, epsilon, head, of_keys),
        _ => head.to_vec(),
    };
    x.chunks(heads.width).enumerate().flat_map(head).collect()
}

/// Turns one head by its position, pairs half a head apart.
pub fn rotate(head: &[f64], position: f64, theta: f64) -> Vec<f64> {
    let half = head.len() / 2;
    let turn = |index: usize| {
        let pair = index % half;
        let angle = position / theta.powf(2.0 * pair as f64 / head.len() as f64);
        let (x, y) = (head[pair], head[pair + half]);
        if index < half { x * angle.cos() - y * angle.sin() } else { y * angle.cos() + x * angle.sin() }
    };
    (0..head.len()).map(turn).collect()
}

pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

pub fn swiglu(width: usize, gate_up: &[f64]) -> Vec<f64> {
    gate_up
        .chunks(2 * width)
        .flat_map(|row| (0..width).map(|f| silu(row[f]) * row[width + f]).collect::<Vec<_>>())
        .collect()
}

pub fn log_sum_exp(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + values.iter().map(|value| (value - max).exp()).sum::<f64>().ln()
}

/// out`[T, H·D]` and lse`[T, H]` of causal attention within documents of these lengths.
pub fn attention(heads: Heads, lengths: &[usize], qkv: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut lse, mut first) = (Vec::new(), Vec::new(), 0);
    for &length in lengths {
        for row in 0..length {
            for head in 0..heads.query {
                let (values, sum) = attend(heads, qkv, first, row, head);
                out.extend(values);
                lse.push(sum);
            }
        }
        first += length;
    }
    (out, lse)
}

fn attend(heads: Heads, qkv: &[f64], first: usize, row: usize, head: usize) -> (Vec<f64>, f64) {
    let width = heads.width;
    let part =
        |row: usize, head: usize| &qkv[((first + row) * (heads.query + 2 * heads.key_value) + head) * width..][..width];
    let shared = head * heads.key_value / heads.query;
    let (query, key_at, value_at) = (part(row, head), heads.query + shared, heads.query + heads.key_value + shared);
    let score = |key: usize| {
        let dot: f64 = query.iter().zip(part(key, key_at)).map(|(q, k)| q * k).sum();
        dot / (width as f64).sqrt()
    };
    let scores: Vec<f64> = (0..=row).map(score).collect();
    let sum = log_sum_exp(&scores);
    let shares: Vec<f64> = scores.iter().map(|score| (score - sum).exp()).collect();
    let value = |d: usize| shares.iter().enumerate().map(|(key, share)| share * part(key, value_at)[d]).sum();
    ((0..width).map(value).collect(), sum)
}

/// log p, log Σ exp and entropy of one row.
pub struct Row {
    pub logp: f64,
    pub lse: f64,
    pub entropy: f64,
}

/// The head's definition: all logits of every row.
pub fn logprob(width: usize, temperature: f64, hidden: &[f64], weight: &[f64], targets: &[u32]) -> Vec<Row> {
    let row = |(hidden, &target): (&[f64], &u32)| {
        let logit = |weight: &[f64]| hidden.iter().zip(weight).map(|(h, w)| h * w).sum::<f64>() / temperature;
        let logits: Vec<f64> = weight.chunks(width).map(logit).collect();
        let lse = log_sum_exp(&logits);
        let entropy = logits.iter().map(|logit| (logit - lse).exp() * (lse - logit)).sum();
        Row { logp: logits[target as usize] - lse, lse, entropy }
    };
    hidden.chunks(width).zip(targets).map(row).collect()
}

/// Equation 16 of Schulman 2016 by definition, in O(T²): A(t) = Σ (γλ)^l δ(t+l) until the segment ends.
pub fn gae(gamma: f64, lambda: f64, rewards: &[f64], values: &[f64]) -> Vec<f64> {
    let len = rewards.len();
    let next = |t: usize| if t + 1 < len { values[t + 1] } else { 0.0 };
    let delta = |t: usize| rewards[t] + gamma * next(t) - values[t];
    (0..len).map(|t| (t..len).map(|s| (gamma * lambda).powi((s - t) as i32) * delta(s)).sum()).collect()
}
