//! The lines of a batch's output and error files, each read as one answer.

use super::journal::address_of;
use super::{Answer, unanswered};
use crate::llm::Fault;
use crate::llm::openai::fault;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Line<'a> {
    custom_id: String,
    #[serde(borrow)]
    response: Option<Response<'a>>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Response<'a> {
    status_code: u16,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// All answers of a file to requests of ours, by their addresses. The body of an answer stays as it came.
///
/// # Errors
/// If a line cannot be read: then the file did not come whole.
pub fn read(bytes: &[u8]) -> Result<Vec<([u8; 32], Answer)>, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| broken(&error))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let answers = lines.map(|line| serde_json::from_str(line).map(answer).map_err(|error| broken(&error)));
    answers.filter_map(Result::transpose).collect()
}

fn answer(line: Line) -> Option<([u8; 32], Answer)> {
    let address = address_of(&line.custom_id)?;
    let answer = match (line.response, line.error.filter(|error| !error.is_null())) {
        (Some(Response { status_code: 200..=299, body: Some(body) }), None) => Ok(body.get().as_bytes().to_vec()),
        (Some(response), None) => {
            let body = response.body.map_or("", RawValue::get);
            Err(fault::of_status(response.status_code, body.as_bytes(), None))
        }
        // Expired or cancelled before its turn.
        (_, error) => {
            let words = error.as_ref().and_then(|error| error["message"].as_str()).unwrap_or("no answer").to_string();
            Err(unanswered(&words))
        }
    };
    Some((address, answer))
}

fn broken(error: &dyn std::fmt::Display) -> Fault {
    Fault::Passing { message: format!("the results of a batch cannot be read: {error}"), retry_after_ms: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_one_answer() {
        let id = |digit: &str| digit.repeat(64);
        let (a, b, c, d) = (id("a"), id("b"), id("c"), id("d"));
        let file = format!(
            r#"{{"id": "r1", "custom_id": "{a}", "response": {{"status_code": 200, "body": {{"choices": [ 1 ]}}}}, "error": null}}

{{"custom_id": "{b}", "response": {{"status_code": 400, "body": {{"error": {{"message": "too long"}}}}}}, "error": null}}
{{"custom_id": "not ours", "response": {{"status_code": 200, "body": {{}}}}, "error": null}}
{{"custom_id": "{c}", "response": {{"status_code": 500, "body": null}}}}
{{"custom_id": "{d}", "response": null, "error": {{"code": "batch_expired", "message": "The window ended."}}}}
"#
        );
        let said = |answer: &Answer| match answer {
            Ok(body) => String::from_utf8(body.clone()).unwrap(),
            Err(Fault::Lasting(words)) => format!("lasting: {words}"),
            Err(fault) => format!("passing: {fault}"),
        };
        let found: Vec<(u8, String)> =
            read(file.as_bytes()).unwrap().iter().map(|(address, answer)| (address[0], said(answer))).collect();
        assert_eq!(found.len(), 4);
        assert_eq!(found[0], (0xaa, r#"{"choices": [ 1 ]}"#.to_string()));
        assert_eq!(found[1], (0xbb, "lasting: the server answered 400: too long".to_string()));
        assert!(found[2].1.starts_with("passing: the server answered 500"), "{found:?}");
        assert_eq!(
            found[3],
            (0xdd, "passing: a batch without an answer to this request: The window ended.".to_string())
        );
        assert!(read(&file.as_bytes()[..file.len() - 30]).is_err(), "a file that was cut off");
    }
}
