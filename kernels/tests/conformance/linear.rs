//! Dense products, sums of rows, elementwise operations, and whole-view sums.

use kernels::{
    Layout, Precision, Prepared, Stream, Write, bias, columns, elementwise, embedding, matmul, matmul_prepared, reduce,
    rows,
};

use crate::reference;
use crate::support::*;

on_every_device![
    products_of_every_layout,
    a_row_has_the_same_bits_alone_and_among_others,
    prepared_weights_give_the_same_bits,
    bf16_products_are_f32_products_of_rounded_factors,
    a_product_over_nothing_is_zero,
    bias_adds_to_rows_and_sums_them,
    rows_are_picked_and_added_back,
    elementwise_and_sums,
    columns_are_added_and_taken,
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
        for write in [Write::Overwrite, Write::Accumulate] {
            subject.run(|stream| {
                let stream = &stream.device().clone().in_precision(precision).stream();
                let (a, weight) = (upload(stream, &inputs[0]), upload(stream, &inputs[1]));
                let prepared = Prepared::new(stream, n, k, weight.view());
                let mut c = if write == Write::Accumulate { upload(stream, &inputs[2]) } else { stream.uninit(m * n) };
                matmul_prepared(stream, m, a.view(), &prepared, write, c.view_mut());
                let c = download(stream, &c);
                assert_eq!(c, product(stream, Layout::Nt, (m, n, k), write, &inputs), "{write:?} {m} × {n} × {k}");
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
                    let what = format!("{layout:?} {write:?} {m} × {n} × {k}");
                    assert_eq!(c, product(stream, layout, (m, n, k), write, &rounded), "{what}");
                    vec![("c", c)]
                });
            }
        }
    }
}

fn a_product_over_nothing_is_zero(subject: Subject) {
    let outputs = subject.run(|stream| {
        vec![("c", product(stream, Layout::Nn, (3, 5, 0), Write::Overwrite, &[vec![], vec![], vec![]]))]
    });
    assert_eq!(output(&outputs, "c"), [0.0; 15]);
}

fn bias_adds_to_rows_and_sums_them(subject: Subject) {
    for (count, width) in [(0, 5), (1, 1), (3, 7), (65, 192), (700, 33), (2000, 96), (9, 1034)] {
        let mut random = Random::new(count as u64);
        let (x, b, before) = (random.floats(count * width), random.floats(width), random.floats(width));
        let outputs = subject.run(|stream| {
            let (x, b) = (upload(stream, &x), upload(stream, &b));
            let (mut y, mut db) = (stream.uninit(count * width), upload(stream, &before));
            stream.copy(x.view(), y.view_mut());
            bias::add(stream, count, width, b.view(), y.view_mut());
            bias::backward(stream, count, width, x.view(), db.view_mut());
            vec![("y", download(stream, &y)), ("db", download(stream, &db))]
        });
        let sum = |index: usize| f64::from(x[index]) + f64::from(b[index % width]);
        let column = |j: usize| (0..count).map(|i| f64::from(x[i * width + j])).sum::<f64>() + f64::from(before[j]);
        assert_close("y", output(&outputs, "y"), &(0..count * width).map(sum).collect::<Vec<_>>(), TOLERANCE);
        assert_close("db", output(&outputs, "db"), &(0..width).map(column).collect::<Vec<_>>(), TOLERANCE);
    }
}

fn rows_are_picked_and_added_back(subject: Subject) {
    for (total, chosen, width) in
        [(1, 1, 1), (4, 0, 8), (5, 9, 33), (40, 400, 96), (300, 500, 200), (2, 600, 5), (3, 40, 1036)]
    {
        let mut random = Random::new(chosen as u64);
        let (table, indices) = (random.floats(total * width), random.indices(chosen, total));
        let dout = random.floats(chosen * width);
        let outputs = subject.run(|stream| {
            let (source, chosen_rows, dout) = (upload(stream, &table), upload(stream, &indices), upload(stream, &dout));
            let (mut picked, mut embedded) = (stream.uninit(chosen * width), stream.uninit(chosen * width));
            let (mut added, mut dtable) = (upload(stream, &table), upload(stream, &table));
            rows::gather(stream, width, source.view(), chosen_rows.view(), picked.view_mut());
            embedding::forward(stream, width, source.view(), chosen_rows.view(), embedded.view_mut());
            rows::scatter_add(stream, width, dout.view(), chosen_rows.view(), added.view_mut());
            embedding::backward(stream, width, chosen_rows.view(), dout.view(), dtable.view_mut());
            let buffers = [("picked", picked), ("embedded", embedded), ("added", added), ("dtable", dtable)];
            buffers.iter().map(|(name, buffer)| (*name, download(stream, buffer))).collect()
        });
        let mut sums = wide(&table);
        for (n, &row) in indices.iter().enumerate() {
            for column in 0..width {
                sums[row as usize * width + column] += f64::from(dout[n * width + column]);
            }
        }
        let picked: Vec<f32> =
            indices.iter().flat_map(|&row| table[row as usize * width..][..width].iter().copied()).collect();
        assert_eq!(output(&outputs, "picked"), picked);
        assert_eq!(output(&outputs, "embedded"), picked);
        assert_close("added", output(&outputs, "added"), &sums, TOLERANCE);
        assert_eq!(output(&outputs, "dtable"), output(&outputs, "added"));
    }
}

fn elementwise_and_sums(subject: Subject) {
    for len in [0, 1, 17, 1000, 300_001] {
        let mut random = Random::new(len as u64);
        let (a, b) = (random.floats(len), random.floats(len));
        let outputs = subject.run(|stream| {
            let (source, mut target) = (upload(stream, &a), upload(stream, &b));
            elementwise::add(stream, source.view(), target.view_mut());
            elementwise::scale(stream, -0.3, target.view_mut());
            let sums = [reduce::sum(stream, source.view()), reduce::sum_squares(stream, source.view())];
            vec![("target", download(stream, &target)), ("sums", sums.map(|sum| sum as f32).to_vec())]
        });
        let expected: Vec<f64> =
            a.iter().zip(&b).map(|(&a, &b)| f64::from(-0.3f32) * (f64::from(a) + f64::from(b))).collect();
        assert_close("target", output(&outputs, "target"), &expected, TOLERANCE);
        let a = wide(&a);
        let expected = [a.iter().sum::<f64>(), a.iter().map(|a| a * a).sum()];
        assert_within("sums", output(&outputs, "sums"), &expected, 1e-7 * (1.0 + expected[1]));
    }
}

fn columns_are_added_and_taken(subject: Subject) {
    for (rows, width, part) in [(1, 1, 0..1), (3, 20, 4..9), (130, 96, 32..96), (500, 33, 32..33)] {
        let mut random = Random::new((rows * width) as u64);
        let (whole, some) = (random.floats(rows * width), random.floats(rows * part.len()));
        let outputs = subject.run(|stream| {
            let (mut target, source) = (upload(stream, &whole), upload(stream, &some));
            let mut out = stream.uninit(some.len());
            columns::take(stream, width, part.clone(), -0.5, target.view(), out.view_mut());
            columns::add(stream, width, part.clone(), 3.0, source.view(), target.view_mut());
            vec![("target", download(stream, &target)), ("out", download(stream, &out))]
        });
        let (mut target, mut out) = (wide(&whole), Vec::new());
        for row in 0..rows {
            for column in part.clone() {
                out.push(-0.5 * target[row * width + column]);
                target[row * width + column] += 3.0 * f64::from(some[row * part.len() + column - part.start]);
            }
        }
        assert_close("target", output(&outputs, "target"), &target, TOLERANCE);
        assert_close("out", output(&outputs, "out"), &out, TOLERANCE);
    }
}
