//! S3, Google Cloud Storage and Azure as shared stores: blocking requests over `object_store`, set up by the environment.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, Error as Refusal, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig, WriteMultipart,
};
use tokio::runtime::Runtime;

use super::bucket::{Bucket, Put};
use crate::error::{Error, Result, without_secrets};

/// How long a request is tried again before the store counts as out of reach.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRIES: usize = 10;
/// Pauses grow by chance between the first and so many times the one before: a server that restarts is waited for.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const PAUSE_GROWTH: f64 = 3.0;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What one request carries of something large: it fits into a request's time limit on a slow line.
const PART_BYTES: u64 = 8 << 20;
/// Stores allow 10,000 parts.
const MOST_PARTS: u64 = 9_000;
const PARTS_AT_ONCE: usize = 4;

/// Longer answers of a server are cut: some quote the whole request.
const LONGEST_REASON: usize = 400;

pub struct Objects {
    name: String,
    prefix: String,
    store: Arc<dyn ObjectStore>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Objects {
    /// `url` is `s3://bucket/prefix` or the like; who we are is in the environment. `None` if it is no such address.
    ///
    /// # Errors
    /// If what the environment says does not fit the address.
    pub fn open(url: &str) -> Result<Option<Self>> {
        // `object_store` leaves TLS to the process; whoever has chosen already is right.
        _ = rustls::crypto::ring::default_provider().install_default();
        let name = without_secrets(url);
        let failed = |error: Refusal| Error::remote("open", &name, reason(&error));
        let Some((scheme, rest)) = url.split_once("://") else { return Ok(None) };
        let Some(store) = connect(scheme, url).transpose().map_err(failed)? else { return Ok(None) };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Error::remote("open", &name, error))?;
        let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix).trim_matches('/').to_owned();
        Ok(Some(Self { name, prefix, store, runtime: Some(runtime) }))
    }

    fn path(&self, path: &str) -> Path {
        Path::from(format!("{}/{path}", self.prefix))
    }

    /// On our own threads, while the caller waits.
    fn wait<T>(&self, doing: &'static str, request: impl Future<Output = Result<T, Refusal>>) -> Result<T> {
        let runtime = self.runtime.as_ref().expect("it lives as long as this does");
        runtime.block_on(request).map_err(|error| Error::remote(doing, &self.name, reason(&error)))
    }

    async fn copy_parts(&self, path: &Path, bytes: u64, output: &mut dyn Write) -> Result<(), Refusal> {
        let parts = stream::iter(parts_of(bytes, PART_BYTES)).map(|part| self.store.get_range(path, part));
        let mut parts = parts.buffered(PARTS_AT_ONCE);
        while let Some(part) = parts.next().await {
            output.write_all(&part?).map_err(local)?;
        }
        Ok(())
    }

    async fn send_parts(&self, path: &Path, file: &mut File, bytes: u64) -> Result<(), Refusal> {
        let part_bytes = PART_BYTES.max(bytes.div_ceil(MOST_PARTS));
        let upload = self.store.put_multipart(path).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part_bytes as usize);
        for part in parts_of(bytes, part_bytes) {
            if let Err(error) = send_part(&mut upload, file, part).await {
                // Parts without an end would be kept, and paid for.
                let _ = upload.abort().await;
                return Err(error);
            }
        }
        upload.finish().await.map(drop)
    }
}

async fn send_part(upload: &mut WriteMultipart, file: &mut File, part: Range<u64>) -> Result<(), Refusal> {
    let mut bytes = vec![0; (part.end - part.start) as usize];
    file.read_exact(&mut bytes).map_err(local)?;
    upload.wait_for_capacity(PARTS_AT_ONCE).await?;
    upload.put(bytes.into());
    Ok(())
}

impl Drop for Objects {
    /// Without waiting: every request has been waited for.
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Bucket for Objects {
    fn name(&self) -> &str {
        &self.name
    }

    fn round_ms(&self) -> RangeInclusive<u64> {
        2_000..=15_000
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(path);
        let request = async { Ok(Vec::from(self.store.get(&path).await?.bytes().await?)) };
        self.wait("read", async { absent_is_none(request.await) })
    }

    fn get_into(&self, path: &str, output: &mut dyn Write) -> Result<bool> {
        let Some(bytes) = self.size(path)? else { return Ok(false) };
        let path = self.path(path);
        let copied = self.wait("read", async { absent_is_none(self.copy_parts(&path, bytes, output).await) })?;
        Ok(copied.is_some())
    }

    fn put(&self, path: &str, bytes: &[u8], how: Put) -> Result<bool> {
        let (path, payload) = (self.path(path), PutPayload::from(bytes.to_vec()));
        let mode = if how == Put::IfAbsent { PutMode::Create } else { PutMode::Overwrite };
        let request = async {
            match self.store.put_opts(&path, payload.clone(), mode.into()).await {
                Err(Refusal::AlreadyExists { .. } | Refusal::Precondition { .. }) => Ok(false),
                // No conditions here: whoever cares reads back.
                Err(Refusal::NotImplemented { .. } | Refusal::NotSupported { .. }) if how == Put::IfAbsent => {
                    self.store.put(&path, payload).await.map(|_| true)
                }
                result => result.map(|_| true),
            }
        };
        self.wait("write to", request)
    }

    fn put_file(&self, path: &str, file: &mut File, bytes: u64) -> Result<()> {
        if bytes > PART_BYTES {
            let path = self.path(path);
            return self.wait("write to", self.send_parts(&path, file, bytes));
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(|error| Error::remote("write to", &self.name, error))?;
        self.put(path, &content, Put::Replace).map(drop)
    }

    fn size(&self, path: &str) -> Result<Option<u64>> {
        let path = self.path(path);
        self.wait("read", async { absent_is_none(self.store.head(&path).await.map(|meta| meta.size)) })
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let folder = self.path(folder);
        let listed = self.wait("list", self.store.list_with_delimiter(Some(&folder)))?;
        let named = listed.objects.into_iter();
        Ok(named.filter_map(|object| Some((object.location.filename()?.to_owned(), object.size))).collect())
    }

    fn remove(&self, path: &str) -> Result<()> {
        let path = self.path(path);
        self.wait("remove from", async { absent_is_none(self.store.delete(&path).await) }).map(drop)
    }
}

/// `None` for a scheme that is no object store's.
fn connect(scheme: &str, url: &str) -> Option<Result<Arc<dyn ObjectStore>, Refusal>> {
    let backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: PAUSE_GROWTH };
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: PATIENCE, backoff };
    Some(match scheme {
        "s3" | "s3a" => AmazonS3Builder::from_env().with_url(url).with_retry(retry).build().map(share),
        "gs" => GoogleCloudStorageBuilder::from_env().with_url(url).with_retry(retry).build().map(share),
        "az" | "azure" | "abfs" | "abfss" => {
            MicrosoftAzureBuilder::from_env().with_url(url).with_retry(retry).build().map(share)
        }
        _ => return None,
    })
}

fn share(store: impl ObjectStore) -> Arc<dyn ObjectStore> {
    Arc::new(store)
}

fn parts_of(bytes: u64, part_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    (0..bytes.div_ceil(part_bytes)).map(move |part| part * part_bytes..((part + 1) * part_bytes).min(bytes))
}

/// A misspelled bucket is not an empty one: it would make every result be paid for again.
fn absent_is_none<T>(result: Result<T, Refusal>) -> Result<Option<T>, Refusal> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Refusal::NotFound { source, .. }) if !names_no_bucket(&source.to_string()) => Ok(None),
        Err(error) => Err(error),
    }
}

fn names_no_bucket(answer: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"].iter().any(|text| answer.contains(text))
}

fn local(error: io::Error) -> Refusal {
    Refusal::Generic { store: "this machine", source: error.into() }
}

/// What people are told: code and message where the server sent a page of XML, which may quote the request's headers; and none
/// of the secrets in the environment.
fn reason(error: &Refusal) -> String {
    let text = error.to_string();
    let text = match (tag(&text, "Code"), tag(&text, "Message")) {
        (Some(code), Some(message)) => format!("{}: {code}: {message}", text.split('<').next().unwrap_or_default()),
        _ => text,
    };
    let shown = std::env::vars()
        .filter(|(name, value)| is_secret(name, value))
        .fold(text, |text, (name, value)| text.replace(&value, &format!("(the value of {name})")));
    shown.chars().take(LONGEST_REASON).collect()
}

fn tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(inside, _)| inside)
}

fn is_secret(name: &str, value: &str) -> bool {
    let is_ours = ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|prefix| name.starts_with(prefix));
    let is_named_so = ["KEY", "SECRET", "TOKEN", "SAS", "PASSWORD"].iter().any(|part| name.contains(part));
    is_ours && is_named_so && value.len() >= 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Refusal {
        Refusal::Generic { store: "S3", source: text.to_owned().into() }
    }

    /// The disaster: a session token, quoted by the server from the request it refused, in a log.
    #[test]
    fn a_server_that_quotes_the_request_is_cut_short() {
        let page = "403 <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>No match</Message>\
            <CanonicalRequest>x-amz-security-token:FQoDYXdz</CanonicalRequest></Error>";
        let shown = reason(&refusal(page));
        assert!(shown.contains("SignatureDoesNotMatch: No match") && !shown.contains("FQoDYXdz"), "{shown}");
        assert!(reason(&refusal(&"x".repeat(9_999))).len() <= LONGEST_REASON);
    }

    #[test]
    fn what_is_secret_in_the_environment_is_known_by_its_name() {
        let check = |name, value, expected| assert_eq!(is_secret(name, value), expected, "{name}");
        check("AWS_SECRET_ACCESS_KEY", "abcdefgh", true);
        check("AWS_SESSION_TOKEN", "abcdefgh", true);
        check("AZURE_STORAGE_SAS_TOKEN", "abcdefgh", true);
        check("AWS_REGION", "eu-central-1", false);
        check("AWS_SECRET_ACCESS_KEY", "test", false);
        check("HOME", "/home/key", false);
    }

    #[test]
    fn parts_cover_everything_once() {
        let check = |bytes, expected: &[(u64, u64)]| {
            let parts: Vec<_> = parts_of(bytes, 10).map(|part| (part.start, part.end)).collect();
            assert_eq!(parts, expected, "{bytes}");
        };
        check(0, &[]);
        check(10, &[(0, 10)]);
        check(25, &[(0, 10), (10, 20), (20, 25)]);
    }

    #[test]
    fn a_bucket_that_is_not_there_is_no_empty_one() {
        let not_found = |text: &str| Err(Refusal::NotFound { path: "x".into(), source: text.to_owned().into() });
        assert!(matches!(absent_is_none::<()>(not_found("<Code>NoSuchKey</Code>")), Ok(None)));
        assert!(absent_is_none::<()>(not_found("<Code>NoSuchBucket</Code>")).is_err());
    }
}
