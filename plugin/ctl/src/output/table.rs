//! Columns of text, aligned with tabs as Go's `text/tabwriter` does with the settings that buildctl uses: cells are padded
//! with tabs to multiples of eight. A column is a run of adjacent lines that have a cell there.

/// Lines of cells.
#[derive(Debug, Default)]
pub(crate) struct Table {
    lines: Vec<Vec<String>>,
}

impl Table {
    /// Adds a line. Each cell but the last is followed by a tab.
    pub(crate) fn line<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.lines.push(cells.into_iter().map(Into::into).collect());
    }

    /// The aligned text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let mut widths: Vec<usize> = Vec::new();
        self.block(0, self.lines.len(), &mut widths, &mut out);
        out
    }

    /// Writes lines `from..to`, whose first columns have `widths`.
    fn block(&self, from: usize, to: usize, widths: &mut Vec<usize>, out: &mut String) {
        let column = widths.len();
        let mut line = from;
        while line < to {
            // A cell counts for its column only if another follows it.
            let has_cell = |at: usize| self.lines[at].len() > column + 1;
            if !has_cell(line) {
                self.write(line, widths, out);
                line += 1;
                continue;
            }
            let end = (line..to).find(|at| !has_cell(*at)).unwrap_or(to);
            let cells = (line..end).map(|at| self.lines[at][column].chars().count());
            let width = cells.max().unwrap_or(0);
            // At least one character of padding, in whole tabs.
            widths.push((width + 1).div_ceil(8) * 8);
            self.block(line, end, widths, out);
            widths.pop();
            line = end;
        }
    }

    fn write(&self, line: usize, widths: &[usize], out: &mut String) {
        let cells = &self.lines[line];
        for (cell, width) in cells.iter().zip(widths) {
            out.push_str(cell);
            let missing = width.saturating_sub(cell.chars().count());
            out.push_str(&"\t".repeat(missing.div_ceil(8)));
        }
        if let Some(last) = cells.get(widths.len()) {
            out.push_str(last);
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_padded_to_the_widest_of_their_column() {
        let mut table = Table::default();
        table.line(["ID", "PLATFORMS"]);
        table.line(["k0cncp5xnxtcxyjrxs1i9s6tk", "linux/amd64"]);
        assert_eq!(
            table.text(),
            "ID\t\t\t\tPLATFORMS\nk0cncp5xnxtcxyjrxs1i9s6tk\tlinux/amd64\n"
        );
    }

    #[test]
    fn lines_without_a_cell_end_a_column() {
        let mut table = Table::default();
        table.line(["ID:", "x"]);
        table.line(["Labels:"]);
        table.line(["", "a long label:", "v"]);
        table.line(["", "b:", "w"]);
        assert_eq!(
            table.text(),
            "ID:\tx\nLabels:\n\ta long label:\tv\n\tb:\t\tw\n"
        );
    }
}
