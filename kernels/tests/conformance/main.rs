//! One body for every device: each operation on fresh random inputs and poisoned outputs, over odd shapes, against
//! plain float64 references and their finite differences; the same bits twice and for any number of threads.

mod attention;
mod learning;
mod linear;
mod preferences;
mod products;
mod reference;
mod rows;
mod sampling;
mod support;
mod vocabulary;
