// Examples of the tuned behaviour, from a JSONL file: {"prompt": "...", "reply": "..."} a line, both texts.
#ifndef EXAMPLES_H
#define EXAMPLES_H

#include <cstdint>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// Reads one flat JSON object of texts. Throws std::runtime_error for anything else.
class FlatObject {
    const std::string &text;
    size_t at = 0;

    [[noreturn]] static void refuse() { throw std::runtime_error("no object of texts like {\"prompt\": \"...\", \"reply\": \"...\"}"); }
    char next() {
        while (at < text.size() && (text[at] == ' ' || text[at] == '\t' || text[at] == '\r')) at++;
        if (at == text.size()) refuse();
        return text[at++];
    }
    uint32_t unit() {
        uint32_t value = 0;
        for (int i = 0; i < 4; i++) {
            const char c = at < text.size() ? text[at++] : ' ';
            if (c >= '0' && c <= '9') value = value * 16 + (uint32_t) (c - '0');
            else if ((c | 32) >= 'a' && (c | 32) <= 'f') value = value * 16 + (uint32_t) ((c | 32) - 'a' + 10);
            else refuse();
        }
        return value;
    }
    static void append(std::string &to, uint32_t c) { // as UTF-8
        if (c < 0x80) { to += (char) c; return; }
        if (c < 0x800) to += (char) (0xC0 | c >> 6);
        else {
            if (c < 0x10000) to += (char) (0xE0 | c >> 12);
            else { to += (char) (0xF0 | c >> 18); to += (char) (0x80 | (c >> 12 & 63)); }
            to += (char) (0x80 | (c >> 6 & 63));
        }
        to += (char) (0x80 | (c & 63));
    }
    std::string string() {
        std::string found;
        while (at < text.size() && text[at] != '"') {
            const char c = text[at++];
            if (c != '\\') { found += c; continue; }
            const char escaped = at < text.size() ? text[at++] : ' ';
            static const std::string from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
            if (escaped == 'u') {
                uint32_t code = unit();
                if (code >= 0xD800 && code < 0xDC00) { // the first half of a character
                    if (text.compare(at, 2, "\\u") != 0) refuse();
                    at += 2;
                    code = 0x10000 + ((code - 0xD800) << 10) + (unit() - 0xDC00);
                }
                append(found, code);
            } else if (from.find(escaped) != std::string::npos) found += to[from.find(escaped)];
            else refuse();
        }
        if (at++ >= text.size()) refuse();
        return found;
    }

public:
    explicit FlatObject(const std::string &line) : text(line) {}
    std::map<std::string, std::string> read() {
        std::map<std::string, std::string> found;
        if (next() != '{') refuse();
        for (char c = ','; c == ',';) {
            if (next() != '"') refuse();
            const std::string key = string();
            if (next() != ':' || next() != '"') refuse();
            found[key] = string();
            c = next();
            if (c != ',' && c != '}') refuse();
        }
        return found;
    }
};

// The turns to show, role and text. Throws std::runtime_error that names the line.
inline std::vector<std::pair<std::string, std::string>> read_examples(const std::string &path) {
    std::vector<std::pair<std::string, std::string>> turns;
    std::ifstream file(path);
    if (!file) throw std::runtime_error("--examples " + path + ": cannot be read");
    std::string line;
    for (int number = 1; std::getline(file, line); number++) {
        if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
        try {
            const auto one = FlatObject(line).read();
            if (one.size() != 2 || !one.count("prompt") || !one.count("reply")) {
                throw std::runtime_error("prompt and reply are needed, and nothing else");
            }
            turns.push_back({"user", one.at("prompt")});
            turns.push_back({"assistant", one.at("reply")});
        } catch (const std::runtime_error &error) {
            throw std::runtime_error("--examples " + path + ", line " + std::to_string(number) + ": " + error.what());
        }
    }
    if (turns.empty()) throw std::runtime_error("--examples " + path + ": holds no example");
    return turns;
}

#endif // EXAMPLES_H
