//! Blots out what looks like a secret in a text that is only kept to be shown: no screen of a mistake repeats a key or a password.

/// Settings whose values are never shown, whatever is wrong around them.
const NAMES: [&str; 7] = ["api_key", "apikey", "api-key", "access_token", "authorization", "bearer", "password"];
const BLOT: u8 = b'*';

/// The text with each secret's bytes replaced one by one, so that every place in it stays where it is.
pub fn blotted(text: String) -> String {
    let mut bytes = text.clone().into_bytes();
    blot_logins(&text, &mut bytes);
    blot_values(&text.to_ascii_lowercase(), &mut bytes);
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// `://user:password@`.
fn blot_logins(text: &str, bytes: &mut [u8]) {
    for start in text.match_indices("://").map(|(at, mark)| at + mark.len()) {
        let ends = |byte: &u8| {
            matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b',' | b']' | b'}') || byte.is_ascii_whitespace()
        };
        let end = bytes[start..].iter().position(ends).map_or(bytes.len(), |length| start + length);
        if let Some(at) = bytes[start..end].iter().rposition(|byte| *byte == b'@') {
            blot(&mut bytes[start..start + at]);
        }
    }
}

/// `api_key: value`, `api_key=value`, and what stands under `api_key_env` without being the name of a variable.
fn blot_values(lower: &str, bytes: &mut [u8]) {
    let names = NAMES.iter().map(|name| (*name, false)).chain([("api_key_env", true)]);
    for (name, may_be_a_name) in names {
        for (at, _) in lower.match_indices(name) {
            let Some((start, end)) = value_after(bytes, at + name.len()) else { continue };
            if !may_be_a_name || !is_variable_name(&bytes[start..end]) {
                blot(&mut bytes[start..end]);
            }
        }
    }
}

/// The value behind a name that ends at `from`, to the end of its word; a parameter `${…}` is no value.
fn value_after(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let is_quote = |byte: u8| matches!(byte, b'"' | b'\'');
    let mut at = from + usize::from(bytes.get(from).is_some_and(|byte| is_quote(*byte)));
    let skip_blanks = |mut at: usize| {
        while bytes.get(at).is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            at += 1;
        }
        at
    };
    at = skip_blanks(at);
    if !matches!(bytes.get(at), Some(b':' | b'=')) {
        return None;
    }
    at = skip_blanks(at + 1);
    let quote = bytes.get(at).copied().filter(|byte| is_quote(*byte));
    let start = at + usize::from(quote.is_some());
    let ends = |byte: &u8| match quote {
        Some(quote) => *byte == quote || *byte == b'\n',
        None => matches!(byte, b',' | b'}' | b']' | b'\n' | b'\r'),
    };
    let end = bytes[start..].iter().position(ends).map_or(bytes.len(), |length| start + length);
    (end > start && !bytes[start..].starts_with(b"${")).then_some((start, end))
}

fn is_variable_name(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    !text.first().is_some_and(u8::is_ascii_digit)
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn blot(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b' ').for_each(|byte| *byte = BLOT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_blotted_out_and_places_stay() {
        for (text, expected) in [
            ("a: { api_key: sk-1, model: m }", "a: { api_key: ****, model: m }"),
            ("api_key: \"sk 1\"\nmodel: m", "api_key: \"** *\"\nmodel: m"),
            ("\"api_key\": 'sk-1'", "\"api_key\": '****'"),
            ("models.a.api_key=sk-1", "models.a.api_key=****"),
            ("API_KEY: sk-1 # mine", "API_KEY: **** * ****"),
            ("api_key_env: OPENAI_API_KEY", "api_key_env: OPENAI_API_KEY"),
            ("api_key_env: sk-1", "api_key_env: ****"),
            ("api_key_file: key.txt", "api_key_file: key.txt"),
            ("api_key: ${key}", "api_key: ${key}"),
            ("base_url: https://me:w@rd@host/v1", "base_url: https://*******@host/v1"),
            ("[https://a:b@c/d, https://e@f]", "[https://***@c/d, https://*@f]"),
            ("mail: me@host # http://host/a@b", "mail: me@host # http://host/a@b"),
            ("password: schlüssel", "password: **********"),
            ("an api_key is needed", "an api_key is needed"),
        ] {
            assert_eq!(blotted(text.to_string()), expected);
            assert_eq!(expected.len(), text.len());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_or_changes_its_length(text in "(api_key|://|@|=|: |\"|'|\\PC|\n){0,30}") {
            proptest::prop_assert_eq!(blotted(text.clone()).len(), text.len());
        }
    }
}
