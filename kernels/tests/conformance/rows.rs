//! Operations that treat each row alone: RMSNorm of rows and of heads, rotary embedding, SwiGLU.

use kernels::{Heads, Stream, Write, elementwise, head_norm, norm, reduce, rope, swiglu};

use crate::reference;
use crate::support::*;

on_every_device![
    norm_forward_and_backward,
    head_norm_forward_and_backward,
    rope_turns_queries_and_keys_and_turns_gradients_back,
    swiglu_forward_and_backward,
    swiglu_of_far_values_stays_finite,
    views_may_begin_anywhere,
    a_row_that_is_no_number_leaves_the_others_theirs,
];

const EPSILON: f32 = 1e-6;

fn norm_forward_and_backward(subject: Subject) {
    for (rows, width) in [(1, 3), (3, 24), (5, 96), (130, 100), (400, 96), (11, 1024), (2, 1025), (9, 2052)] {
        let mut random = Random::new((rows * width) as u64);
        let (x, weight) = (random.floats(rows * width), random.floats(width));
        let (dout, before) = (random.floats(rows * width), random.floats(rows * width));
        for write in [Write::Overwrite, Write::Accumulate] {
            let outputs = subject.run(|stream| {
                let (x, weight, dout) = (upload(stream, &x), upload(stream, &weight), upload(stream, &dout));
                let (mut out, mut rstd) = (stream.uninit(rows * width), stream.uninit(rows));
                norm::forward(stream, rows, width, EPSILON, x.view(), weight.view(), out.view_mut(), rstd.view_mut());
                let mut dweight = stream.zeros(width);
                let mut dx =
                    if write == Write::Accumulate { upload(stream, &before) } else { stream.uninit(rows * width) };
                let (dx_view, dweight_view) = (dx.view_mut(), dweight.view_mut());
                norm::backward(
                    stream,
                    rows,
                    width,
                    x.view(),
                    weight.view(),
                    rstd.view(),
                    dout.view(),
                    write,
                    dx_view,
                    dweight_view,
                );
                [("out", out), ("dx", dx), ("dweight", dweight)].map(|(name, b)| (name, download(stream, &b))).to_vec()
            });
            let forward = |x: &[f64], weight: &[f64]| reference::norm(width, f64::from(EPSILON), x, weight);
            assert_close("out", output(&outputs, "out"), &forward(&wide(&x), &wide(&weight)), TOLERANCE);
            let fixed = |x: &[f64]| if write == Write::Accumulate { inner(x, &before) } else { 0.0 };
            let loss = |x: &[f64], weight: &[f64]| inner(&forward(x, weight), &dout);
            assert_gradient("dx", output(&outputs, "dx"), &x, |x| loss(x, &wide(&weight)) + fixed(x));
            assert_gradient("dweight", output(&outputs, "dweight"), &weight, |weight| loss(&wide(&x), weight));
        }
    }
}

fn head_norm_forward_and_backward(subject: Subject) {
    for (rows, query, key_value, width) in
        [(1, 1, 1, 2), (5, 4, 2, 24), (70, 7, 1, 10), (130, 3, 3, 64), (9, 2, 1, 128)]
    {
        let heads = Heads { query, key_value, width };
        let mut random = Random::new((rows * width + query) as u64);
        let (x, weight) = (random.floats(rows * heads.packed_width()), random.floats(2 * width));
        let (dout, before) = (random.floats(x.len()), random.floats(2 * width));
        let outputs = subject.run(|stream| {
            let (x, weight) = (upload(stream, &x), upload(stream, &weight));
            let (mut out, mut rstd) = (stream.uninit(x.len()), stream.uninit(rows * (query + key_value)));
            head_norm::forward(stream, heads, EPSILON, x.view(), weight.view(), out.view_mut(), rstd.view_mut());
            let (mut dqkv, mut dweight) = (upload(stream, &dout), upload(stream, &before));
            let (saved, gradient) = (rstd.view(), dqkv.view_mut());
            head_norm::backward(stream, heads, x.view(), weight.view(), saved, gradient, dweight.view_mut());
            [("out", out), ("dx", dqkv), ("dweight", dweight)].map(|(name, b)| (name, download(stream, &b))).to_vec()
        });
        let forward = |x: &[f64], weight: &[f64]| reference::head_norm(heads, f64::from(EPSILON), x, weight);
        assert_close("out", output(&outputs, "out"), &forward(&wide(&x), &wide(&weight)), TOLERANCE);
        let loss = |x: &[f64], weight: &[f64]| inner(&forward(x, weight), &dout);
        assert_gradient("dx", output(&outputs, "dx"), &x, |x| loss(x, &wide(&weight)));
        let with_before = |weight: &[f64]| loss(&wide(&x), weight) + inner(weight, &before);
        assert_gradient("dweight", output(&outputs, "dweight"), &weight, with_before);
    }
}

fn rope_turns_queries_and_keys_and_turns_gradients_back(subject: Subject) {
    let theta = 1e4;
    for (query, key_value, width) in [(1, 1, 2), (4, 2, 24), (7, 1, 64), (2, 2, 96), (2, 1, 128)] {
        let heads = Heads { query, key_value, width };
        let mut random = Random::new(width as u64);
        let positions = random.indices(50, 170);
        let qkv = random.floats(50 * heads.packed_width());
        let outputs = subject.run(|stream| {
            let (tables, places) =
                (rope::tables(stream, 170, &rope::frequencies(width, theta)), upload(stream, &positions));
            let (mut turned, mut back) = (upload(stream, &qkv), upload(stream, &qkv));
            rope::forward(stream, heads, places.view(), tables.view(), turned.view_mut());
            rope::backward(stream, heads, places.view(), tables.view(), back.view_mut());
            vec![("turned", download(stream, &turned)), ("back", download(stream, &back))]
        });
        for (name, direction) in [("turned", 1.0), ("back", -1.0)] {
            let mut expected = Vec::new();
            for (row, &position) in wide(&qkv).chunks(heads.packed_width()).zip(&positions) {
                for (index, head) in row.chunks(width).enumerate() {
                    let angle = if index < query + key_value { direction * f64::from(position) } else { 0.0 };
                    expected.extend(reference::rotate(head, angle, theta));
                }
            }
            assert_close(name, output(&outputs, name), &expected, TOLERANCE);
        }
    }
}

fn swiglu_forward_and_backward(subject: Subject) {
    for (rows, width) in [(1, 1), (3, 7), (384, 256), (65, 100), (2, 1034), (2, 2052)] {
        let mut random = Random::new((rows + width) as u64);
        let gate_up: Vec<f32> = random.floats(2 * rows * width).iter().map(|x| 8.0 * x).collect();
        let dout = random.floats(rows * width);
        let outputs = subject.run(|stream| {
            let (input, dout) = (upload(stream, &gate_up), upload(stream, &dout));
            let (mut out, mut dinput) = (stream.uninit(rows * width), stream.uninit(2 * rows * width));
            swiglu::forward(stream, rows, width, input.view(), out.view_mut());
            swiglu::backward(stream, rows, width, input.view(), dout.view(), dinput.view_mut());
            vec![("out", download(stream, &out)), ("dinput", download(stream, &dinput))]
        });
        assert_close("out", output(&outputs, "out"), &reference::swiglu(width, &wide(&gate_up)), TOLERANCE);
        let loss = |gate_up: &[f64]| inner(&reference::swiglu(width, gate_up), &dout);
        assert_gradient("dgate_up", output(&outputs, "dinput"), &gate_up, loss);
    }
}

fn swiglu_of_far_values_stays_finite(subject: Subject) {
    let outputs = subject.run(|stream| {
        let input = upload(stream, &[-200.0f32, 200.0, -90.0, 90.0, 1.0, 1.0, 1.0, 1.0]);
        let (dout, mut out, mut dinput) = (upload(stream, &[1.0f32; 4]), stream.uninit(4), stream.uninit(8));
        swiglu::forward(stream, 1, 4, input.view(), out.view_mut());
        swiglu::backward(stream, 1, 4, input.view(), dout.view(), dinput.view_mut());
        vec![("out", download(stream, &out)), ("dinput", download(stream, &dinput))]
    });
    assert_within("out", output(&outputs, "out"), &[0.0, 200.0, 0.0, 90.0], 1e-30);
    assert_within("dgate", &output(&outputs, "dinput")[..4], &[0.0, 1.0, 0.0, 1.0], 1e-30);
}

fn a_row_that_is_no_number_leaves_the_others_theirs(subject: Subject) {
    let heads = Heads { query: 2, key_value: 1, width: 24 };
    let (rows, width, row) = (70, heads.packed_width(), 33);
    let mut random = Random::new(18);
    let (x, weight, dout) = (random.floats(rows * width), random.floats(width), random.floats(rows * width));
    let others = |stream: &Stream, value: f32| {
        let mut x = x.clone();
        x[row * width..(row + 1) * width].fill(value);
        let (x, weight, dout) = (upload(stream, &x), upload(stream, &weight), upload(stream, &dout));
        let [mut out, mut dx, mut turned] = [0; 3].map(|_| stream.uninit(rows * width));
        let (mut rstd, mut dweight) = (stream.uninit(rows), stream.zeros(width));
        norm::forward(stream, rows, width, EPSILON, x.view(), weight.view(), out.view_mut(), rstd.view_mut());
        let (saved, write, to_weight) = (rstd.view(), Write::Overwrite, dweight.view_mut());
        norm::backward(
            stream,
            rows,
            width,
            x.view(),
            weight.view(),
            saved,
            dout.view(),
            write,
            dx.view_mut(),
            to_weight,
        );
        let mut of_heads = stream.uninit(rows * (heads.query + heads.key_value));
        let factors = weight.slice(0..2 * heads.width);
        head_norm::forward(stream, heads, EPSILON, x.view(), factors, turned.view_mut(), of_heads.view_mut());
        let mut gated = stream.uninit(rows * width / 2);
        swiglu::forward(stream, rows, width / 2, x.view(), gated.view_mut());
        let outputs = [("out", out), ("rstd", rstd), ("dx", dx), ("turned", turned), ("gated", gated)];
        let without_row = |values: Vec<f32>| {
            let here = row * values.len() / rows..(row + 1) * values.len() / rows;
            [&values[..here.start], &values[here.end..]].concat()
        };
        outputs.map(|(name, buffer)| (name, without_row(download(stream, &buffer)))).to_vec()
    };
    let expected = subject.run(|stream| others(stream, 0.5));
    for value in [f32::NAN, f32::INFINITY] {
        assert_eq!(subject.run(|stream| others(stream, value)), expected, "beside {value}");
    }
}

/// Devices that move four numbers at once do so only where these lie together.
fn views_may_begin_anywhere(subject: Subject) {
    let (rows, width) = (9, 72);
    let len = rows * width;
    let mut random = Random::new(17);
    let (x, weight) = (random.floats(len), random.floats(width));
    let behind =
        |stream: &Stream, first: usize, values: &[f32]| upload(stream, &[&vec![f32::NAN; first], values].concat());
    for first in 1..=4 {
        let outputs = subject.run(|stream| {
            let (input, factors) = (behind(stream, first, &x), behind(stream, first, &weight));
            let (input, factors) = (input.slice(first..first + len), factors.slice(first..first + width));
            let mut out = stream.uninit(first + len + 5);
            let (mut rstd, mut gated) = (stream.uninit(rows), stream.uninit(first + len / 2));
            norm::forward(
                stream,
                rows,
                width,
                EPSILON,
                input,
                factors,
                out.slice_mut(first..first + len),
                rstd.view_mut(),
            );
            elementwise::add(stream, input, out.slice_mut(first..first + len));
            swiglu::forward(stream, rows, width / 2, input, gated.slice_mut(first..first + len / 2));
            let sum = reduce::sum(stream, input) as f32;
            let parts = (out.slice(first..first + len), gated.slice(first..first + len / 2));
            vec![("out", stream.download(parts.0)), ("gated", stream.download(parts.1)), ("sum", vec![sum])]
        });
        let mut expected = reference::norm(width, f64::from(EPSILON), &wide(&x), &wide(&weight));
        expected.iter_mut().zip(&x).for_each(|(sum, &x)| *sum += f64::from(x));
        assert_close("out", output(&outputs, "out"), &expected, TOLERANCE);
        assert_close("gated", output(&outputs, "gated"), &reference::swiglu(width / 2, &wide(&x)), TOLERANCE);
        assert_within("sum", output(&outputs, "sum"), &[wide(&x).iter().sum()], 1e-5);
    }
}
