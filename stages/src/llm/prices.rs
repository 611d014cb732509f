//! What tokens cost, as the recipe states it.

use super::{Request, Usage};

/// Tokens that a chat template adds around each message, at most.
const TEMPLATE_TOKENS: u64 = 16;

crate::settings! {
    /// US dollars per million tokens.
    pub struct Prices {
        /// Prompt tokens.
        pub input_usd_per_million: f64,
        /// Generated tokens, reasoning included.
        pub output_usd_per_million: f64,
        /// Prompt tokens that the server had in its prefix cache; as `input_usd_per_million` where absent.
        pub cached_usd_per_million: Option<f64> = None,
    }
}

impl Prices {
    /// Whether all of them are prices: finite and not below 0.
    pub fn are_sound(&self) -> bool {
        let all = [self.input_usd_per_million, self.output_usd_per_million, self.cached_usd_per_million.unwrap_or(0.0)];
        all.iter().all(|price| price.is_finite() && *price >= 0.0)
    }

    pub fn cost_usd(&self, usage: &Usage) -> f64 {
        let cached = usage.tokens_cached.min(usage.tokens_in);
        let cached_price = self.cached_usd_per_million.unwrap_or(self.input_usd_per_million);
        let input_usd = (usage.tokens_in - cached) as f64 * self.input_usd_per_million;
        let output_usd = usage.tokens_out as f64 * self.output_usd_per_million;
        (input_usd + cached as f64 * cached_price + output_usd) / 1e6
    }

    /// An upper bound: a token is at least one byte of the prompt, and no more than `tokens_out_max` come back.
    pub fn worst_case_usd(&self, system: &str, request: &Request, tokens_out_max: u64) -> f64 {
        let message_bytes: usize = request.messages.iter().map(|message| message.content.len()).sum();
        let tokens_in = (system.len() + message_bytes) as u64 + TEMPLATE_TOKENS * (request.messages.len() as u64 + 1);
        self.cost_usd(&Usage { tokens_in, tokens_cached: 0, tokens_out: tokens_out_max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_have_their_own_price() {
        let prices =
            Prices { input_usd_per_million: 2.0, output_usd_per_million: 10.0, cached_usd_per_million: Some(1.0) };
        let usage = Usage { tokens_in: 1_000_000, tokens_cached: 500_000, tokens_out: 100_000 };
        assert_eq!(prices.cost_usd(&usage), 1.0 + 0.5 + 1.0);
        assert_eq!(Prices { cached_usd_per_million: None, ..prices }.cost_usd(&usage), 3.0);
    }
}
