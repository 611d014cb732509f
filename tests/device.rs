//! Where models compute: a GPU that cannot be used is told in a sentence with what to do about it, and never stops a run that did not
//! name it. The drivers here are the kernels' tests' (`kernels/tests/driver`), each of which lacks something.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::Kitchen;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const RECIPE: &str = "\
version: 1
nodes:
  exam:    { kind: source, path: exam.jsonl }
  student: { kind: sft, input: exam, response: answer, steps: 1, base: { architecture: qwen2, layers: 1, hidden: 16, heads: 2,
             tokenizer: { train: words, size: 300 } } }
";

/// A compiler that says what it is and can do nothing.
const COMPILER: &str = "\
int nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, 0; }
int nvrtcGetNumSupportedArchs(int* count) { return *count = 1, 0; }
int nvrtcGetSupportedArchs(int* architectures) { return *architectures = 90, 0; }
";

fn kitchen() -> Kitchen {
    let kitchen = Kitchen::new(RECIPE);
    kitchen.write("exam.jsonl", "{\"question\": \"one\", \"answer\": \"two\"}\n");
    kitchen.write("compiler.c", COMPILER);
    kitchen.write("nothing.c", "int nothing;\n");
    kitchen
}

/// Puts a library into the kitchen under the first name that is looked for.
fn compile(kitchen: &Kitchen, language: &str, source: &Path, library: &str, claims: &[&str]) {
    let mut compiler = Command::new("c++");
    compiler.args(["-x", language, "-shared", "-fPIC"]).args(claims.iter().map(|claim| format!("-D{claim}")));
    compiler.arg(source).arg("-o").arg(kitchen.path(library));
    assert!(compiler.status().expect("there is a C++ compiler").success(), "{compiler:?}");
}

fn put_driver(kitchen: &Kitchen, claims: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/driver/driver.cpp");
    compile(kitchen, "c++", &source, "libcuda.so", claims);
}

fn decoct(kitchen: &Kitchen, arguments: &[&str]) -> Output {
    kitchen.command(arguments).env("LD_LIBRARY_PATH", kitchen.path("")).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// The doctor's verdict on the device, and its words.
fn diagnosis(kitchen: &Kitchen) -> (String, String) {
    let output = decoct(kitchen, &["doctor", "--format", "json"]);
    assert!(output.status.success(), "{}", told(&output));
    assert!(output.stderr.is_empty(), "{}", told(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = found["checks"].as_array().unwrap();
    let device = checks.iter().find(|check| check["check"] == "device").unwrap();
    (device["verdict"].as_str().unwrap().to_string(), device["found"].as_str().unwrap().to_string())
}

#[test]
fn what_a_driver_lacks_is_a_sentence() {
    let kitchen = kitchen();
    compile(&kitchen, "c", &kitchen.path("nothing.c"), "libcuda.so", &[]);
    let check = |expected: &str| {
        let (verdict, words) = diagnosis(&kitchen);
        assert!(verdict == "no" && words.contains(expected), "`{words}` lacks `{expected}`");
        assert!(words.contains("`--device cpu`") && words.ends_with("models are computed on the processor"), "{words}");
    };
    check("the CUDA driver refused to start: it lacks `cuInit`; check `nvidia-smi`");
    compile(&kitchen, "c", &kitchen.path("compiler.c"), "libnvrtc.so", &[]);
    for (claims, expected) in [
        (&["INIT=100"][..], "this machine has a CUDA driver but no GPU"),
        (&["INIT=803"], "the CUDA driver refused to start: error 803 of the tests' driver"),
        (&["DEVICES=0"], "this machine has a CUDA driver but no GPU"),
        (&["VERSION=11040"], "the CUDA driver is of version 11.4, and 12.0 is the oldest that will do; update it"),
        (&["CAPABILITY=75"], "a GPU of the tests has compute capability 7.5, and 8.0 (Ampere) is the least"),
        (&["CAPABILITY=120"], "NVRTC 13.0 does not know the architecture `sm_120`; install a newer one"),
        (
            &["VERSION=12080"],
            "NVRTC 13.0 makes programs that the CUDA driver 12.8 cannot load; update the driver, install NVRTC 12.x",
        ),
    ] {
        put_driver(&kitchen, claims);
        check(expected);
    }
}

#[test]
fn a_gpu_that_cannot_be_used_stops_only_a_run_that_names_it() {
    let kitchen = kitchen();
    put_driver(&kitchen, &["VERSION=11040"]);
    let output = decoct(&kitchen, &["run", "recipe.yaml", "--until", "exam"]);
    assert!(output.status.success() && !told(&output).contains("CUDA"), "it computes nothing: {}", told(&output));
    let output = decoct(&kitchen, &["run", "recipe.yaml"]);
    assert!(output.status.success(), "{}", told(&output));
    let line = "the CUDA driver is of version 11.4, and 12.0 is the oldest that will do; update it or use `--device cpu`: models are computed on the processor";
    assert!(told(&output).contains(line), "{}", told(&output));
    let output = decoct(&kitchen, &["run", "recipe.yaml", "--device", "cpu", "--force", "student"]);
    assert!(output.status.success() && !told(&output).contains("CUDA"), "{}", told(&output));
    let output = decoct(&kitchen, &["run", "recipe.yaml", "--device", "cuda:0", "--force", "student"]);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(
        told(&output).contains("is of version 11.4") && told(&output).contains("decoct doctor"),
        "{}",
        told(&output)
    );
}

#[test]
fn a_driver_without_a_gpu_is_no_line_in_a_run() {
    let kitchen = kitchen();
    put_driver(&kitchen, &["DEVICES=0"]);
    let output = decoct(&kitchen, &["run", "recipe.yaml"]);
    assert!(output.status.success() && !told(&output).contains("CUDA"), "{}", told(&output));
}
