//! Microseconds and GFLOP/s of every operation at the shapes of small decoders; `--threads N` (default 1), or a filter.

use std::time::Instant;

use kernels::adamw::{self, AdamW};
use kernels::attention::{self, Cache};
use kernels::logprob::{self, Head};
use kernels::sample::{self, Sampling};
use kernels::{Buffer, Device, Heads, Layout, Segments, Stream, Write};
use kernels::{bias, elementwise, embedding, logits, matmul, norm, philox, reduce, rope, swiglu};

/// Seconds that one measurement repeats for.
const SECONDS: f64 = 0.15;

struct Bench {
    stream: Stream,
    filter: Option<String>,
}

impl Bench {
    /// Prints the best of many runs: other work on the machine only ever adds time.
    fn time(&self, name: &str, operations: usize, mut run: impl FnMut(&Stream)) {
        if self.filter.as_ref().is_some_and(|filter| !name.trim_start().contains(filter.as_str())) {
            return;
        }
        let (begin, mut best) = (Instant::now(), f64::INFINITY);
        while begin.elapsed().as_secs_f64() < SECONDS {
            let start = Instant::now();
            run(&self.stream);
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("{name:<44} {:>9.2} µs {:>8.1} GFLOP/s", best * 1e6, operations as f64 / best / 1e9);
    }

    fn random(&self, len: usize) -> Buffer<f32> {
        let values: Vec<f32> = (0..len).map(|index| philox::uniform(1, index as u64) as f32 - 0.5).collect();
        self.stream.upload(&values)
    }

    fn product(&self, layout: Layout, m: usize, n: usize, k: usize) {
        let (a, b, mut c) = (self.random(m * k), self.random(k * n), self.random(m * n));
        let name = format!("matmul {layout:?} {m} × {n} × {k}");
        self.time(&name, 2 * m * n * k, |stream| {
            matmul(stream, layout, m, n, k, a.view(), b.view(), Write::Overwrite, c.view_mut())
        });
        if self.stream.device().threads() == 1 {
            self.peer(layout, m, n, k);
        }
    }

    /// The same product by a well-kept crate: what ours must not fall behind.
    fn peer(&self, layout: Layout, m: usize, n: usize, k: usize) {
        let (a, b, mut c) = (vec![0.5f32; m * k], vec![0.25f32; k * n], vec![0.0f32; m * n]);
        let strides = |rows: usize, columns: usize, transposed: bool| match transposed {
            false => (columns as isize, 1),
            true => (1, rows as isize),
        };
        let (a_row, a_column) = strides(m, k, layout == Layout::Tn);
        let (b_row, b_column) = strides(k, n, layout == Layout::Nt);
        self.time("  matrixmultiply", 2 * m * n * k, |_| {
            let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            // SAFETY: the three matrices have the sizes that their strides span.
            unsafe {
                matrixmultiply::sgemm(m, k, n, 1.0, a, a_row, a_column, b, b_row, b_column, 0.0, c, n as isize, 1)
            }
        });
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let threads = arguments.iter().position(|argument| argument == "--threads").map(|at| arguments[at + 1].clone());
    let threads = threads.map_or(1, |count| count.parse().expect("`--threads` takes a number"));
    let filter = arguments.iter().find(|argument| !argument.starts_with("--") && argument.parse::<usize>().is_err());
    let device = Device::cpu(Some(threads));
    let bench = Bench { stream: device.stream(), filter: filter.cloned() };
    device.install(|| {
        products(&bench);
        row_operations(&bench, 384, 96, 256);
        attention_operations(&bench, Heads { query: 4, key_value: 2, width: 24 });
        vocabulary_operations(&bench, 256, 96);
        optimizer(&bench, 307_776);
    });
}

fn products(bench: &Bench) {
    bench.product(Layout::Nn, 512, 512, 512);
    bench.product(Layout::Nn, 192, 256, 1024);
    bench.product(Layout::Nt, 192, 256, 1024);
    bench.product(Layout::Nn, 1024, 1024, 1024);
    for (n, k) in [(2048, 384), (384, 1024), (640, 384)] {
        bench.product(Layout::Nt, 1024, n, k);
        bench.product(Layout::Nn, 1024, k, n);
        bench.product(Layout::Tn, n, k, 1024);
    }
    for m in [192, 384] {
        for (n, k) in [(192, 96), (96, 96), (512, 96), (96, 256)] {
            bench.product(Layout::Nt, m, n, k);
            bench.product(Layout::Nn, m, k, n);
            bench.product(Layout::Tn, n, k, m);
        }
    }
    for m in [64, 256] {
        for (n, k) in [(192, 96), (96, 96), (512, 96), (96, 256), (41, 96)] {
            bench.product(Layout::Nt, m, n, k);
        }
    }
    bench.product(Layout::Nt, 256, 1, 96);
}

fn row_operations(bench: &Bench, rows: usize, width: usize, feed_forward: usize) {
    let (x, weight, mut out, mut rstd) =
        (bench.random(rows * width), bench.random(width), bench.random(rows * width), bench.random(rows));
    let (mut dx, mut dweight) = (bench.random(rows * width), bench.random(width));
    bench.time("norm forward", 4 * rows * width, |stream| {
        norm::forward(stream, rows, width, 1e-6, x.view(), weight.view(), out.view_mut(), rstd.view_mut())
    });
    bench.time("norm backward", 10 * rows * width, |stream| {
        let (dx, dweight, dout) = (dx.view_mut(), dweight.view_mut(), out.view());
        norm::backward(stream, rows, width, x.view(), weight.view(), rstd.view(), dout, Write::Accumulate, dx, dweight)
    });
    bench.time("add", rows * width, |stream| elementwise::add(stream, x.view(), out.view_mut()));
    let (gate_up, mut dgate_up) = (bench.random(2 * rows * feed_forward), bench.random(2 * rows * feed_forward));
    let mut product = bench.random(rows * feed_forward);
    bench.time("swiglu forward", rows * feed_forward, |stream| {
        swiglu::forward(stream, rows, feed_forward, gate_up.view(), product.view_mut())
    });
    bench.time("swiglu backward", rows * feed_forward, |stream| {
        swiglu::backward(stream, rows, feed_forward, gate_up.view(), product.view(), dgate_up.view_mut())
    });
    let (mut packed, constant, mut dconstant) = (bench.random(rows * 192), bench.random(192), bench.random(192));
    bench.time("bias add", rows * 192, |stream| bias::add(stream, rows, 192, constant.view(), packed.view_mut()));
    bench.time("bias backward", rows * 192, |stream| {
        bias::backward(stream, rows, 192, packed.view(), dconstant.view_mut())
    });
    let tokens: Vec<u32> = (0..rows as u32).map(|row| row * 7 % 41).collect();
    let (tokens, mut table) = (bench.stream.upload(&tokens), bench.random(41 * width));
    bench.time("embedding forward", 0, |stream| {
        embedding::forward(stream, width, table.view(), tokens.view(), out.view_mut())
    });
    bench.time("embedding backward", rows * width, |stream| {
        embedding::backward(stream, width, tokens.view(), out.view(), table.view_mut())
    });
}

fn attention_operations(bench: &Bench, heads: Heads) {
    let lengths = [84, 120, 60, 120];
    let segments = Segments::new(&bench.stream, &lengths);
    let tokens = segments.tokens();
    let tables = rope::tables(&bench.stream, 256, &rope::frequencies(heads.width, 1e4));
    let positions = bench.stream.upload(&segments.positions());
    let mut qkv = bench.random(tokens * heads.packed_width());
    bench.time("rope forward", 0, |stream| {
        rope::forward(stream, heads, positions.view(), tables.view(), qkv.view_mut())
    });
    let (mut out, mut lse) = (bench.random(tokens * heads.query_width()), bench.random(tokens * heads.query));
    let pairs: usize = lengths.iter().map(|length| length * (length + 1) / 2).sum();
    let work = 4 * pairs * heads.query_width();
    bench.time("attention forward", work, |stream| {
        attention::forward(stream, heads, &segments, qkv.view(), out.view_mut(), lse.view_mut())
    });
    let (dout, mut dqkv) = (bench.random(out.len()), bench.random(qkv.len()));
    bench.time("attention backward", 5 * work / 2, |stream| {
        let saved = (qkv.view(), out.view(), lse.view());
        attention::backward(stream, heads, &segments, saved.0, saved.1, saved.2, dout.view(), dqkv.view_mut())
    });
    let batch = 256;
    let (page, each) = (32, 4);
    let mut cache = Cache::new(&bench.stream, heads, batch * each, page);
    // Every sequence's pages lie apart, as in a pool that has been in use.
    let tables: Vec<u32> =
        (0..batch).flat_map(|row| (0..each).map(move |place| (place * batch + row) as u32)).collect();
    let places: Vec<u32> =
        (0..batch).map(|row| tables[row * each + 79 / page] * page as u32 + 79 % page as u32).collect();
    let (tables, places, counts) =
        (bench.stream.upload(&tables), bench.stream.upload(&places), bench.stream.upload(&vec![80u32; batch]));
    bench.time("cache append, 256 rows", 0, |stream| {
        attention::append(stream, &mut cache, qkv.slice(0..batch * heads.packed_width()), places.view())
    });
    bench.time("attention decode, 256 rows of 80", 4 * batch * 80 * heads.query_width(), |stream| {
        let (queries, out) =
            (qkv.slice(0..batch * heads.packed_width()), out.slice_mut(0..batch * heads.query_width()));
        attention::decode(stream, &cache, queries, tables.view(), counts.view(), out)
    });
}

fn vocabulary_operations(bench: &Bench, rows: usize, width: usize) {
    for vocabulary in [41, 300] {
        let head = Head { vocabulary, width, temperature: 1.0 };
        let (hidden, weight) = (bench.random(rows * width), bench.random(vocabulary * width));
        let targets = bench.stream.upload(&(0..rows as u32).map(|row| row % vocabulary as u32).collect::<Vec<_>>());
        let (mut logp, mut lse) = (bench.random(rows), bench.random(rows));
        let work = 2 * rows * vocabulary * width;
        bench.time(&format!("logprob forward V {vocabulary}"), work, |stream| {
            let (hidden, weight, targets) = (hidden.view(), weight.view(), targets.view());
            logprob::forward(stream, head, hidden, weight, targets, logp.view_mut(), lse.view_mut(), None)
        });
        let (mut dhidden, mut dweight) = (bench.random(rows * width), bench.random(vocabulary * width));
        bench.time(&format!("logprob backward V {vocabulary}"), 3 * work, |stream| {
            let (hidden, weight, targets) = (hidden.view(), weight.view(), targets.view());
            let gradients = (dhidden.view_mut(), dweight.view_mut());
            logprob::backward(
                stream,
                head,
                hidden,
                weight,
                targets,
                lse.view(),
                logp.view(),
                None,
                gradients.0,
                Some(gradients.1),
            )
        });
        let (mut scores, mut tokens) = (bench.random(rows * vocabulary), bench.stream.uninit(rows));
        bench.time(&format!("logits V {vocabulary}"), work, |stream| {
            logits::forward(stream, rows, vocabulary, width, hidden.view(), weight.view(), scores.view_mut())
        });
        let (seeds, counters) = (bench.stream.upload(&vec![3u64; rows]), bench.stream.upload(&vec![5u64; rows]));
        bench.time(&format!("sample V {vocabulary}"), 0, |stream| {
            let (keys, sampling) = ((seeds.view(), counters.view()), Sampling::at(1.0));
            let outputs = (tokens.view_mut(), logp.view_mut());
            sample::forward(stream, vocabulary, &sampling, scores.view(), keys.0, keys.1, outputs.0, outputs.1)
        });
    }
}

fn optimizer(bench: &Bench, len: usize) {
    let (gradient, mut parameters, mut first, mut second) =
        (bench.random(len), bench.random(len), bench.random(len), bench.random(len));
    let settings = AdamW {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 3,
        gradient_scale: 1.0,
    };
    bench.stream.fill(second.view_mut(), 0.1);
    bench.time("adamw, 308 thousand parameters", 12 * len, |stream| {
        let moments = (first.view_mut(), second.view_mut());
        adamw::step(stream, &settings, gradient.view(), parameters.view_mut(), moments.0, moments.1)
    });
    bench.time("sum of squares, 308 thousand", 2 * len, |stream| {
        std::hint::black_box(reduce::sum_squares(stream, gradient.view()));
    });
}
