//! `decoct schema`: the JSON Schema of recipes.

use crate::failure::{Exit, Result};
use crate::spec::schema::schema;

pub fn run() -> Result<Exit> {
    println!("{:#}", schema());
    Ok(Exit::Done)
}
