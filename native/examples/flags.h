// Flags of a command line, checked against the text of its usage. Throws std::runtime_error for a mistake.
#ifndef FLAGS_H
#define FLAGS_H

#include <cstdlib>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>

inline void require(bool holds, const std::string &otherwise) {
    if (!holds) throw std::runtime_error(otherwise);
}

struct Flags {
    std::map<std::string, std::string> given;

    Flags(int argc, char **argv, const std::string &usage) {
        for (int i = 1; i < argc; i++) {
            const std::string flag = argv[i];
            const bool known = flag.rfind("--", 0) == 0 && usage.find(flag + " ") != std::string::npos;
            require(known, "unknown argument " + flag + "\n" + usage);
            given[flag.substr(2)] = flag == "--ids" || i + 1 == argc ? "" : argv[++i];
        }
    }
    bool has(const std::string &name) const { return given.count(name) > 0; }
    std::string text(const std::string &name) const { return has(name) ? given.at(name) : ""; }
    double number(const std::string &name, double usual, double least = -1e9, double most = 1e9) const {
        if (!has(name)) return usual;
        char *end = nullptr;
        const std::string value = text(name);
        const double read = std::strtod(value.c_str(), &end);
        const bool fits = end != value.c_str() && !*end && read >= least && read <= most;
        require(fits, "--" + name + " " + value + ": not a number, or out of its range");
        return read;
    }
    int whole(const std::string &name, int usual, int least = 1) const {
        return static_cast<int>(number(name, usual, least, std::numeric_limits<int>::max()));
    }
};

#endif // FLAGS_H
