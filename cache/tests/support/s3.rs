//! An S3 server on loopback: moto, from PyPI, in the tests' virtual environment.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BUCKET: &str = "team";
/// Machines are shared: importing moto alone takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Server {
    port: u16,
    process: Child,
}

impl Server {
    /// Starts one with an empty bucket.
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/venv");
        let made = Command::new(&script).stderr(Stdio::inherit()).output().unwrap();
        assert!(made.status.success(), "`{}` failed", script.display());
        let program = format!("{}/bin/moto_server", String::from_utf8(made.stdout).unwrap().trim());
        loop {
            // Someone else may take the port before the server does: then it ends at once, and the next port is tried.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut command = Command::new(&program);
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
            let mut server = Self { port, process: command.spawn().unwrap() };
            if server.answers() {
                server.request("PUT", &format!("/{BUCKET}"));
                return server;
            }
        }
    }

    pub fn url(&self) -> String {
        format!("s3://{BUCKET}/store")
    }

    /// What a process must find in its environment to use this server.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_ACCESS_KEY_ID", "a-test-key".into()),
            ("AWS_SECRET_ACCESS_KEY", "a-test-secret".into()),
            ("AWS_REGION", "us-east-1".into()),
        ]
    }

    fn answers(&mut self) -> bool {
        let begun = Instant::now();
        while self.process.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            assert!(begun.elapsed() < PATIENCE, "the S3 server does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn request(&self, method: &str, path: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
