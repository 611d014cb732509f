//! Dense products of every layout, in f32 and of factors rounded to bf16.

use kernels::{Layout, Precision, Prepared, Stream, Write, matmul, matmul_prepared};

use crate::reference;
use crate::support::*;

on_every_device![
    products_of_every_layout,
    a_row_has_the_same_bits_alone_and_among_others,
    a_row_that_is_no_number_leaves_the_others_theirs,
    prepared_weights_give_the_same_bits,
    bf16_products_are_f32_products_of_rounded_factors,
    a_product_over_nothing_is_zero,
];

/// m, n, k: one of everything, one less and one more than tiles, and the target model's own.
const SHAPES: [(usize, usize, usize); 15] = [
    (1, 1, 1),
    (1, 40, 96),
    (2, 3, 5),
    (5, 33, 17),
    (13, 31, 257),
    (12, 32, 256),
    (15, 24, 64),
    (16, 24, 64),
    (193, 65, 24),
    (64, 41, 96),
    (7, 1, 96),
    (100, 192, 96),
    (96, 256, 383),
    (31, 7, 600),
    // Enough for B to be copied once for all tasks.
    (397, 97, 701),
];

fn product(
    stream: &Stream,
    layout: Layout,
    shape: (usize, usize, usize),
    write: Write,
    inputs: &[Vec<f32>; 3],
) -> Vec<f32> {
    let (m, n, k) = shape;
    let (a, b) = (upload(stream, &inputs[0]), upload(stream, &inputs[1]));
    let mut c = if write == Write::Accumulate { upload(stream, &inputs[2]) } else { stream.uninit(m * n) };
    matmul(stream, layout, m, n, k, a.view(), b.view(), write, c.view_mut());
    download(stream, &c)
}

fn products_of_every_layout(subject: Subject) {
    for (m, n, k) in SHAPES {
        let mut random = Random::new((m * n * k) as u64);
        let inputs = [random.floats(m * k), random.floats(k * n), random.floats(m * n)];
        let (a, b) = (wide(&inputs[0]), wide(&inputs[1]));
        for layout in [Layout::Nn, Layout::Nt, Layout::Tn] {
            let left = |i: usize, p: usize| if layout == Layout::Tn { a[p * m + i] } else { a[i * k + p] };
            let right = |p: usize, j: usize| if layout == Layout::Nt { b[j * k + p] } else { b[p * n + j] };
            let mut expected = reference::matmul(m, n, k, left, right);
            for write in [Write::Overwrite, Write::Accumulate] {
                let outputs = subject.run(|stream| vec![("c", product(stream, layout, (m, n, k), write, &inputs))]);
                if write == Write::Accumulate {
                    expected.iter_mut().zip(&inputs[2]).for_each(|(sum, &before)| *sum += f64::from(before));
                }
                let what = format!("{layout:?} {write:?} {m} × {n} × {k}");
                assert_close(&what, output(&outputs, "c"), &expected, TOLERANCE);
            }
        }
    }
}

/// Of A, and of the B whose rows are C's columns.
fn a_row_that_is_no_number_leaves_the_others_theirs(subject: Subject) {
    for (m, n, k) in [(50, 41, 33), (193, 130, 96)] {
        let mut random = Random::new((n * k) as u64);
        let (a, b) = (random.floats(m * k), random.floats(k * n));
        let others = |stream: &Stream, layout: Layout, value: f32| {
            let (mut a, mut b) = (a.clone(), b.clone());
            a[7 * k..8 * k].fill(value);
            if layout == Layout::Nt {
                b[9 * k..10 * k].fill(value);
            }
            let c = product(stream, layout, (m, n, k), Write::Overwrite, &[a, b, vec![]]);
            let is_other = |index: usize| index / n != 7 && (layout != Layout::Nt || index % n != 9);
            vec![("c", c.into_iter().enumerate().filter(|&(index, _)| is_other(index)).map(|(_, c)| c).collect())]
        };
        for layout in [Layout::Nn, Layout::Nt] {
            for precision in [Precision::F32, Precision::Bf16] {
                let expected = subject.run_in(precision, |stream| others(stream, layout, 0.5));
                for value in [f32::NAN, f32::INFINITY] {
                    let outputs = subject.run_in(precision, |stream| others(stream, layout, value));
                    assert_eq!(outputs, expected, "{layout:?} {m} × {n} × {k} beside {value} in {precision:?}");
                }
            }
        }
    }
}

fn a_row_has_the_same_bits_alone_and_among_others(subject: Subject) {
    for (n, k) in [(1, 96), (41, 96), (192, 96), (96, 256), (33, 700)] {
        for layout in [Layout::Nn, Layout::Nt] {
            let mut random = Random::new((n * k) as u64);
            // The last one's B is copied once for all tasks where many rows are computed, and not where few are.
            let m = if k == 700 { 1000 } else { 50 };
            let (a, b) = (random.floats(m * k), random.floats(k * n));
            let whole = subject.run(|stream| {
                vec![("c", product(stream, layout, (m, n, k), Write::Overwrite, &[a.clone(), b.clone(), vec![]]))]
            });
            for rows in [0..1, 7..9, 20..35] {
                let part = a[rows.start * k..rows.end * k].to_vec();
                let alone = subject.run(|stream| {
                    let inputs = [part.clone(), b.clone(), vec![]];
                    vec![("c", product(stream, layout, (rows.len(), n, k), Write::Overwrite, &inputs))]
                });
                assert_eq!(
                    output(&alone, "c"),
                    &output(&whole, "c")[rows.start * n..rows.end * n],
                    "{layout:?} {n} × {k}"
                );
            }
        }
    }
}

fn prepared_weights_give_the_same_bits(subject: Subject) {
    for ((m, n, k), precision) in SHAPES.into_iter().zip([Precision::F32, Precision::Bf16].into_iter().cycle()) {
        let mut random = Random::new((m * n * k) as u64);
        let inputs = [random.floats(m * k), random.floats(k * n), random.floats(m * n)];
        let (ways, writes) = ([Layout::Nt, Layout::Nn], [Write::Overwrite, Write::Accumulate]);
        for (layout, write) in ways.into_iter().flat_map(|layout| writes.map(|write| (layout, write))) {
            subject.run(|stream| {
                let stream = &stream.device().clone().in_precision(precision).stream();
                let (a, b) = (upload(stream, &inputs[0]), upload(stream, &inputs[1]));
                // Of what was there before nothing may be left.
                let mut prepared = Prepared::new(stream, layout, n, k, upload(stream, &vec![7.0; k * n]).view());
                prepared.renew(stream, b.view());
                let mut c = if write == Write::Accumulate { upload(stream, &inputs[2]) } else { stream.uninit(m * n) };
                matmul_prepared(stream, m, a.view(), &prepared, write, c.view_mut());
                let c = download(stream, &c);
                assert_eq!(
                    c,
                    product(stream, layout, (m, n, k), write, &inputs),
                    "{layout:?} {write:?} {m} × {n} × {k}"
                );
                vec![("c", c)]
            });
        }
    }
}

fn bf16_products_are_f32_products_of_rounded_factors(subject: Subject) {
    let nearest = |values: &[f32]| values.iter().map(|&value| half::bf16::from_f32(value).to_f32()).collect::<Vec<_>>();
    for (m, n, k) in SHAPES {
        let mut random = Random::new((m + n * k) as u64);
        let inputs = [random.floats(m * k), random.floats(k * n), random.floats(m * n)];
        let rounded = [nearest(&inputs[0]), nearest(&inputs[1]), inputs[2].clone()];
        for layout in [Layout::Nn, Layout::Nt, Layout::Tn] {
            for write in [Write::Overwrite, Write::Accumulate] {
                subject.run(|stream| {
                    let half = stream.device().clone().in_precision(Precision::Bf16).stream();
                    let c = product(&half, layout, (m, n, k), write, &inputs);
                    let exact = product(stream, layout, (m, n, k), write, &rounded);
                    let what = format!("{layout:?} {write:?} {m} × {n} × {k}");
                    if subject.is_accelerated() {
                        // Tensor cores sum in an order of their own.
                        assert_close(&what, &c, &wide(&exact), TOLERANCE);
                    } else {
                        assert_eq!(c, exact, "{what}");
                    }
                    vec![("c", c)]
                });
            }
        }
    }
}

fn a_product_over_nothing_is_zero(subject: Subject) {
    let outputs = subject
        .run(|stream| vec![("c", product(stream, Layout::Nn, (3, 5, 0), Write::Overwrite, &[vec![], vec![], vec![]]))]);
    assert_eq!(output(&outputs, "c"), [0.0; 15]);
}
