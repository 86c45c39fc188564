#pragma once
// Parts of pictures as SVG. All pictures have one width and one size of text, so that they can be read in a column of a
// page and on a phone (420 pixels: text of 9), and follow the reader's light or dark scheme.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace refit::report::svg {

// Lengths are in units of the drawing, which has no size of its own: it is scaled to the page.
inline constexpr double kWidth = 720;
inline constexpr double kText = 16;      ///< size of text
inline constexpr double kLetter = 8.3;   ///< mean width of a letter of that size
inline constexpr double kNameText = 20;  ///< size of a drawing's name
inline constexpr int kColors = 8;

/// Returns the style class of a colour: of Okabe and Ito's palette, whose colours are told apart with any colour
/// vision.
std::string color(std::int64_t number);

std::string rectangle(std::string_view style, double x, double y, double width, double height,
                      const std::string& title = {});
std::string line(std::string_view style, double x0, double y0, double x1, double y1);
/// `anchor`: start, middle or end.
std::string text(double x, double y, std::string_view anchor, std::string_view style, const std::string& text);
/// Draws a name in the middle, smaller where it would not fit.
std::string name(double y, const std::string& text);
/// Returns the lines of a text, broken at spaces, that fit `width`.
std::vector<std::string> wrapped(const std::string& text, double width);

/// Returns the whole document. `style`: more rules beside those of all pictures.
std::string document(double height, const std::string& title, const std::string& description, const std::string& body,
                     std::string_view style = {});

}  // namespace refit::report::svg
