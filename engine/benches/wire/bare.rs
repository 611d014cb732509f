//! The bare loop: sends and receives, and does nothing else.

use futures::StreamExt;

/// A request as long as those of the node.
pub fn body(index: usize, prompt_bytes: usize) -> String {
    let text = format!("conclusion {index} ");
    let content = text.repeat(prompt_bytes / text.len());
    format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "{content}"}}]}}"#)
}

pub fn run(base_url: &str, rows: usize, in_flight: usize, threads: usize) {
    stages::llm::install_tls();
    let runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    };
    runtime.expect("a runtime").block_on(async {
        let client = reqwest::Client::builder().pool_max_idle_per_host(in_flight).tcp_nodelay(true).build();
        let client = client.expect("a client");
        let url = format!("{base_url}/chat/completions");
        let send = |index: usize| {
            let post =
                client.post(&url).header("content-type", "application/json").body(body(index, super::PROMPT_BYTES));
            tokio::spawn(async move { post.send().await.expect("an answer").bytes().await.expect("its body").len() })
        };
        let answers = futures::stream::iter((0..rows).map(send)).buffer_unordered(in_flight);
        let answered = answers.filter(|bytes| std::future::ready(*bytes.as_ref().expect("no panic") > 0)).count().await;
        assert_eq!(answered, rows);
    });
}
