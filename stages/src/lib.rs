//! What one node can do: rows in, rows out. Knows nothing of where results are stored, what else is in the graph, YAML text or the terminal.

pub mod answers;
pub mod chain;
pub mod changes;
pub mod columns;
pub mod compare;
pub mod context;
pub mod draw;
pub mod failure;
pub mod kinds;
pub mod llm;
pub mod model;
pub mod prompt;
pub mod registry;
pub mod report;
pub mod rows;
pub mod settings;
pub mod stage;
pub mod table;
pub mod tablets;
pub mod template;
pub mod told;
mod tolerant_json;
pub mod trail;
pub mod train;
