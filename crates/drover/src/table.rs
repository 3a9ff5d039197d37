//! Aligned columns.

/// A table under construction.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// The space between columns.
    const GAP: usize = 3;

    /// An empty table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    /// Adds a row; an empty cell becomes a dash.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| if cell.is_empty() { "-".into() } else { cell }).into());
    }

    /// The text, a newline at the end of each row, no spaces before it.
    #[must_use]
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell_width = |row: &Vec<String>, column| row.get(column).map_or(0, |cell: &String| cell.chars().count());
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().map(|row| cell_width(row, column)).max().unwrap_or(0) + Self::GAP)
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: String = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
            text.push_str(cells.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_rows_have_no_tail() {
        let mut table = Table::new(&["NAME", "NODE", "UP"]);
        table.row(["web".into(), "n1".into(), "3 min".into()]);
        table.row(["größer-als".into(), "node-17".into(), String::new()]);
        let expected = "NAME         NODE      UP\n\
                        web          n1        3 min\n\
                        größer-als   node-17   -\n";
        assert_eq!(table.render(), expected);
    }
}
