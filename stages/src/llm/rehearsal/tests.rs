//! The rehearsal holds its stated rates and repeats itself exactly.
