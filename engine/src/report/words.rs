//! Numbers as people read them.

/// `1234567` → `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let groups = tail.as_bytes().chunks(3).map(|group| std::str::from_utf8(group).expect("digits"));
    std::iter::once(head).filter(|head| !head.is_empty()).chain(groups).collect::<Vec<_>>().join(",")
}

/// `9,999`, `12.3k`, `345k`, `6.7M`: for where about how many is enough.
pub fn roughly(number: f64) -> String {
    match number {
        n if n < 9_999.5 => thousands(n.round() as u64),
        n if n < 99_950.0 => format!("{:.1}k", n / 1e3),
        n if n < 999_500.0 => format!("{:.0}k", n / 1e3),
        n if n < 99_950_000.0 => format!("{:.1}M", n / 1e6),
        n if n < 999_500_000.0 => format!("{:.0}M", n / 1e6),
        n => format!("{:.1}G", n / 1e9),
    }
}

/// `0.04 s`, `3.2 s`, `2 min 05 s`, `1 h 02 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match seconds {
        s if s < 1.0 => format!("{s:.2} s"),
        s if s < 99.95 => format!("{s:.1} s"),
        _ if whole < 3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// How long ago a time in seconds since 1970 was: `just now`, `5 min ago`, `3 h ago`, `12 days ago`.
pub fn ago(then_seconds: u64, now_seconds: u64) -> String {
    match now_seconds.saturating_sub(then_seconds) {
        0..60 => "just now".to_string(),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// `512 B`, `1.5 kB`, `20 MB`: in thousands, as disks are sold.
pub fn bytes(number: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut amount = number as f64;
    let mut unit = "B";
    for larger in units {
        if amount < 999.5 {
            break;
        }
        (amount, unit) = (amount / 1000.0, larger);
    }
    if unit == "B" || amount >= 9.95 { format!("{amount:.0} {unit}") } else { format!("{amount:.1} {unit}") }
}

/// Four digits below a dollar, where single calls count; two above.
pub fn dollars(amount_usd: f64) -> String {
    match amount_usd {
        0.0 => "$0".to_string(),
        amount if amount < 1.0 => format!("${amount:.4}"),
        amount => format!("${amount:.2}"),
    }
}

/// `1 row`, `2,000 rows`.
pub fn counted(number: u64, singular: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {singular}{plural}", thousands(number))
}

/// `9 nodes (chains, verdicts, …)`.
pub fn named(nodes: &[&str]) -> String {
    const SHOWN: usize = 3;
    let more = if nodes.len() > SHOWN { ", …" } else { "" };
    format!("{} ({}{more})", counted(nodes.len() as u64, "node"), nodes[..nodes.len().min(SHOWN)].join(", "))
}

/// `1 reply`, `2,000 replies`.
pub fn replies(number: u64) -> String {
    format!("{} {}", thousands(number), if number == 1 { "reply" } else { "replies" })
}

/// The first line of a text, cut to `width` characters: for values inside one line.
pub fn shortened(text: &str, width: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= width && line.len() == text.len() {
        return line.to_string();
    }
    let head: String = line.chars().take(width.saturating_sub(1)).collect();
    format!("{head}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (number, expected) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (24_000, "24,000"), (1_234_567, "1,234,567")]
        {
            assert_eq!(thousands(number), expected);
        }
        for (number, expected) in [
            (0.4, "0"),
            (9_999.0, "9,999"),
            (12_345.0, "12.3k"),
            (345_678.0, "346k"),
            (999_600.0, "1.0M"),
            (67_890_123.0, "67.9M"),
            (3e9, "3.0G"),
        ] {
            assert_eq!(roughly(number), expected);
        }
        for (seconds, expected) in
            [(0.041, "0.04 s"), (3.24, "3.2 s"), (99.96, "1 min 40 s"), (125.2, "2 min 05 s"), (3725.0, "1 h 02 min")]
        {
            assert_eq!(duration(seconds), expected);
        }
        for (amount, expected) in [(0.0, "$0"), (0.01234, "$0.0123"), (12.345, "$12.35")] {
            assert_eq!(dollars(amount), expected);
        }
        for (seconds, expected) in [(3, "just now"), (150, "2 min ago"), (7300, "2 h ago"), (864_000, "10 days ago")] {
            assert_eq!(ago(1_000_000, 1_000_000 + seconds), expected);
        }
        for (number, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_940, "9.9 kB"),
            (9_960, "10 kB"),
            (999_400, "999 kB"),
            (999_600, "1.0 MB"),
            (12_345_678_901, "12 GB"),
            (5_000_000_000_000_000, "5000 TB"),
        ] {
            assert_eq!(bytes(number), expected);
        }
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(0, "call"), "0 calls");
    }

    #[test]
    fn many_nodes_are_counted_and_some_named() {
        assert_eq!(named(&["a"]), "1 node (a)");
        assert_eq!(named(&["a", "b", "c", "d"]), "4 nodes (a, b, c, …)");
    }

    #[test]
    fn a_cut_text_says_that_it_was_cut() {
        for (text, expected) in
            [("short", "short"), ("exactly ten", "exactly t…"), ("two\nlines", "two…"), ("éééééééééé", "éééééééééé")]
        {
            assert_eq!(shortened(text, 10), expected);
        }
    }
}
