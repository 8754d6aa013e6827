"""From the results of a run to one HTML file that opens anywhere: ReportData in, a page out."""
