//! Sums of rows, rows that are picked and added back, elementwise operations, and whole-view sums.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kernels::{Heads, bias, columns, elementwise, embedding, reduce, rope, rows};

use crate::support::*;

on_every_device![
    bias_adds_to_rows_and_sums_them,
    rows_are_picked_and_added_back,
    equal_rows_add_up_in_their_order,
    an_index_past_the_last_row_ends_the_work,
    elementwise_and_sums,
    columns_are_added_and_taken,
];

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

/// Bit by bit what a loop over the rows gives, on every device.
fn equal_rows_add_up_in_their_order(subject: Subject) {
    for (total, chosen, width) in [(1, 700, 3), (7, 300, 36), (500, 513, 8)] {
        let mut random = Random::new((total + chosen) as u64);
        let (table, indices, dout) =
            (random.floats(total * width), random.indices(chosen, total), random.floats(chosen * width));
        let outputs = subject.run(|stream| {
            let (indices, dout, mut added) = (upload(stream, &indices), upload(stream, &dout), upload(stream, &table));
            rows::scatter_add(stream, width, dout.view(), indices.view(), added.view_mut());
            vec![("added", download(stream, &added))]
        });
        let mut expected = table.clone();
        for (row, &index) in dout.chunks(width).zip(&indices) {
            let target = &mut expected[index as usize * width..][..width];
            target.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        assert_eq!(output(&outputs, "added"), expected, "{chosen} rows to {total}");
    }
}

/// On a GPU it would end the process's context too, and with it the other tests.
fn an_index_past_the_last_row_ends_the_work(subject: Subject) {
    if subject == Subject::Cuda {
        return;
    }
    subject.run(|stream| {
        let (table, indices) = (upload(stream, &[1.0f32; 6]), upload(stream, &[0u32, 2]));
        let fails = |work: &dyn Fn()| catch_unwind(AssertUnwindSafe(work)).is_err();
        let gather = || rows::gather(stream, 3, table.view(), indices.view(), stream.uninit(6).view_mut());
        let scatter = || {
            let mut target = stream.zeros::<f32>(6);
            rows::scatter_add(stream, 3, table.view(), indices.view(), target.view_mut());
        };
        assert!(fails(&gather) && fails(&scatter), "rows");
        let heads = Heads { query: 1, key_value: 1, width: 2 };
        let turn = || rope::forward(stream, heads, indices.view(), table.slice(0..4), stream.zeros(12).view_mut());
        assert!(fails(&turn), "rope");
        vec![]
    });
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
