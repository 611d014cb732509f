//! Times every kernel on one device: milliseconds beside the floor that the work itself sets, a line of JSON a case.
//! `run` beside this file is the way to call it; `--device cuda:0|emulated`, `--check` (tiny sizes), `--only WORD`,
//! `--json FILE`, `--floors` (tells them and runs nothing).

mod attending;
mod case;
mod rowwise;
mod vocabulary;

use std::fmt::Write as _;
use std::process::ExitCode;

use case::{Case, Run, Sizes};
use kernels::{Device, Precision, Stream, Toolkit};

/// Runs before the first that counts, and runs that do: their median is told.
const WARM_UPS: usize = 5;
const RUNS: usize = 21;

/// What the command line asks for.
struct Options {
    device: String,
    is_check: bool,
    floors: bool,
    only: Option<String>,
    json: Option<String>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options { device: "cuda:0".into(), is_check: false, floors: false, only: None, json: None };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("`{word}` takes a value"));
            match word.as_str() {
                "--device" => options.device = value()?,
                "--only" => options.only = Some(value()?),
                "--json" => options.json = Some(value()?),
                "--check" => options.is_check = true,
                "--floors" => options.floors = true,
                // What `cargo bench` adds.
                "--bench" => {}
                _ => return Err(format!("`{word}` is not known; --device, --only, --json, --check and --floors are")),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let sizes = if options.is_check { Sizes::TINY } else { Sizes::FULL };
    let makers = rowwise::CASES.iter().chain(attending::CASES).chain(vocabulary::CASES);
    let cases = makers.flat_map(|make| make(&sizes));
    let wanted = |case: &Case| options.only.as_ref().is_none_or(|word| case.name.contains(word.as_str()));
    let cases: Vec<Case> = cases.filter(wanted).collect();
    if options.floors {
        cases.iter().for_each(|case| println!("{:<32} {:>10.4} ms", case.name, case.floor_milliseconds()));
        return Ok(());
    }
    let stream = open(&options.device)?.in_precision(Precision::Bf16).stream();
    let (warm_ups, runs) = if options.is_check { (0, 1) } else { (WARM_UPS, RUNS) };
    let mut lines = String::new();
    for case in cases {
        let (name, floor, line) = (case.name.clone(), case.floor_milliseconds(), case.json());
        let milliseconds = median(&stream, &mut (case.prepare)(&stream), warm_ups, runs);
        // What an emulated device takes says nothing of a kernel.
        let (told, measured) = match options.device.as_str() {
            "emulated" => ("ran".into(), String::new()),
            _ => (
                format!("{milliseconds:>10.4} ms, floor {floor:>10.4} ms"),
                format!(", \"milliseconds\": {milliseconds}"),
            ),
        };
        println!("{name:<32} {told}");
        writeln!(lines, "{{{line}{measured}}}").expect("text takes text");
    }
    let Some(path) = &options.json else { return Ok(()) };
    std::fs::write(path, lines).map_err(|error| format!("cannot write `{path}`: {error}"))
}

fn open(name: &str) -> Result<Device, String> {
    match name.strip_prefix("cuda:").map(str::parse) {
        Some(Ok(ordinal)) => Device::cuda(ordinal, &toolkit()).map_err(|error| error.to_string()),
        #[cfg(feature = "emulator")]
        None if name == "emulated" => Ok(Device::emulated(kernels::Emulation { threads: 2, ..Default::default() })),
        _ => Err(format!("device `{name}` is neither `cuda:N` nor, in a build with the emulator, `emulated`")),
    }
}

/// As the conformance suite finds it: a folder for compiled kernels, and folders of CUDA's libraries.
fn toolkit() -> Toolkit {
    let libraries = std::env::var_os("KERNELS_CUDA_LIBRARIES").unwrap_or_default();
    Toolkit {
        cubins: std::env::var_os("KERNELS_CUDA").unwrap_or_else(|| "cubins".into()).into(),
        libraries: std::env::split_paths(&libraries).collect(),
    }
}

/// Of several runs, each timed by the device itself.
fn median(stream: &Stream, work: &mut Run, warm_ups: usize, runs: usize) -> f64 {
    (0..warm_ups).for_each(|_| work(stream));
    stream.synchronize();
    let mut seconds: Vec<f64> = (0..runs).map(|_| stream.timed(|| work(stream))).collect();
    seconds.sort_by(f64::total_cmp);
    1e3 * seconds[seconds.len() / 2]
}
