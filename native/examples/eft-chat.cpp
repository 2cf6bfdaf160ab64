// A chat with emulated fine-tuning in the terminal, on eft_sampler.h: `base` is the program's own model, the sampler
// has the contexts of the other two. One reply: --prompt TEXT. Else each line of standard input is a message.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <limits>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "eft_sampler.h"
#include "examples.h"
#include "flags.h"
#include "llama-cpp.h"

static const char *USAGE =
    "eft-chat --base FILE --untuned FILE (--tuned FILE | --lora FILE) [flags]\n"
    "  --lora FILE         an adapter on the untuned model is the tuned one\n"
    "  --knowledge X  --behaviour X                                  the dials, 1 and 1\n"
    "  --untuned-floor X  --tuned-top-p X  --base-top-p X  --base-min-p X     filters\n"
    "  --temperature X  --top-k N  --top-p X  --min-p X  --seed N    0.7 (0 is greedy), 40, 0.95, 0.05, random\n"
    "  --grammar FILE      GBNF that replies must follow\n"
    "  --examples FILE     JSONL of prompt and reply: base and untuned read them before each chat\n"
    "  --system TEXT  --prompt TEXT  --max-tokens N  --ids           --ids: token ids on standard error\n"
    "  --ctx N  --batch N  --threads N  --gpu-layers N               4096, 128, the cores, all\n";

static volatile std::sig_atomic_t interrupted = 0;

// ---- Models
static llama_model_ptr load(const Flags &flags, const std::string &name) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = flags.whole("gpu-layers", -1, -1);
    require(flags.has(name), "--" + name + " is missing\n" + USAGE);
    llama_model_ptr model(llama_model_load_from_file(flags.text(name).c_str(), params));
    require(model != nullptr, "--" + name + " " + flags.text(name) + ": cannot be loaded");
    return model;
}

static llama_context_ptr context(const Flags &flags, llama_model *model) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = flags.whole("ctx", 4096);
    params.n_batch = params.n_ubatch = std::min(flags.whole("batch", 128), flags.whole("ctx", 4096));
    params.n_threads_batch = params.n_threads = flags.whole("threads", (int) std::thread::hardware_concurrency());
    llama_context_ptr made(llama_init_from_model(model, params));
    require(made != nullptr, "no memory for a context: pass a smaller --ctx");
    return made;
}

// ---- Text and tokens
static std::vector<llama_token> tokenize(const llama_vocab *vocab, const std::string &text, bool begin) {
    std::vector<llama_token> tokens(text.size() + 8);
    const int size = (int) text.size(), room = (int) tokens.size();
    tokens.resize(std::max(0, llama_tokenize(vocab, text.data(), size, tokens.data(), room, begin, true)));
    return tokens;
}

static std::string piece(const llama_vocab *vocab, llama_token token) {
    std::string text(std::max(0, -llama_token_to_piece(vocab, token, nullptr, 0, 0, false)), '\0');
    llama_token_to_piece(vocab, token, &text[0], (int) text.size(), 0, false);
    return text;
}

using Messages = std::vector<std::pair<std::string, std::string>>; // role and content

static std::string render(const llama_model *tuned, const Messages &messages, bool asks = true) {
    std::vector<llama_chat_message> chat;
    for (const auto &message : messages) chat.push_back({message.first.c_str(), message.second.c_str()});
    const char *format = llama_model_chat_template(tuned, nullptr);
    const int n = format ? llama_chat_apply_template(format, chat.data(), chat.size(), asks, nullptr, 0) : -1;
    require(n >= 0, "the tuned model has no chat template, or one that llama.cpp does not know");
    std::string text(n, '\0');
    llama_chat_apply_template(format, chat.data(), chat.size(), asks, &text[0], n);
    return text;
}

// ---- The chat
struct Chat {
    const Flags &flags;
    llama_model_ptr base_model, untuned_model, tuned_model;
    llama_adapter_lora_ptr adapter;
    llama_context_ptr base, untuned, tuned;
    llama_sampler_ptr chain; // freed first: it goes by the contexts
    llama_sampler *eft = nullptr;
    const llama_vocab *vocab = nullptr;
    std::vector<llama_token> read, said_ids; // what base has read; the last turn with its reply
    std::vector<llama_token> shown;          // what base and untuned read before each chat
    std::string said;                        // that turn as a text

    explicit Chat(const Flags &f) : flags(f) {
        base_model = load(flags, "base");
        untuned_model = load(flags, "untuned");
        tuned_model = flags.has("lora") ? nullptr : load(flags, "tuned");
        base = context(flags, base_model.get());
        untuned = context(flags, untuned_model.get());
        tuned = context(flags, model());
        vocab = llama_model_get_vocab(model());
        if (flags.has("lora")) {
            float scale = 1;
            adapter.reset(llama_adapter_lora_init(model(), flags.text("lora").c_str()));
            llama_adapter_lora *one = adapter.get();
            require(one && llama_set_adapters_lora(tuned.get(), &one, 1, &scale) == 0,
                    "--lora " + flags.text("lora") + ": not an adapter of the untuned model");
        }
        build_chain();
        if (flags.has("examples")) {
            shown = tokenize(vocab, render(model(), read_examples(flags.text("examples")), false), true);
            require(eft_sampler_show(eft, shown.data(), shown.size()) == 0, "--examples: a token that not all models have");
        }
    }
    llama_model *model() const { return (tuned_model ? tuned_model : untuned_model).get(); } // the tuned one's weights

    void build_chain() {
        double factors[3], weight = 1;
        eft_factors(flags.number("knowledge", 1), flags.number("behaviour", 1), &weight, nullptr, 1, factors);
        eft_filter filter = eft_filter_none();
        filter.untuned_floor = flags.number("untuned-floor", filter.untuned_floor);
        filter.tuned_top_p = flags.number("tuned-top-p", 1);
        filter.base_top_p = flags.number("base-top-p", 1);
        filter.base_min_p = flags.number("base-min-p", 0);
        const eft_member members[] = {{base.get(), factors[0], EFT_BASE},
                                      {untuned.get(), factors[1], EFT_UNTUNED},
                                      {tuned.get(), factors[2], EFT_TUNED}};
        eft = eft_sampler_init(members, 3, 0, &filter);
        require(eft, "a dial or filter is out of its range, or the models have different kinds of vocabulary");
        chain.reset(llama_sampler_chain_init(llama_sampler_chain_default_params()));
        llama_sampler_chain_add(chain.get(), eft);
        const auto add = [this](llama_sampler *next) { llama_sampler_chain_add(chain.get(), next); };
        if (flags.has("grammar")) {
            std::stringstream gbnf;
            gbnf << std::ifstream(flags.text("grammar")).rdbuf();
            llama_sampler *grammar = llama_sampler_init_grammar(vocab, gbnf.str().c_str(), "root");
            require(grammar && !gbnf.str().empty(), "--grammar " + flags.text("grammar") + ": no GBNF with a `root`");
            add(grammar);
        }
        const float temperature = (float) flags.number("temperature", 0.7, 0);
        if (temperature == 0) return add(llama_sampler_init_greedy());
        add(llama_sampler_init_top_k(flags.whole("top-k", 40, 0)));
        add(llama_sampler_init_top_p((float) flags.number("top-p", 0.95, 0, 1), 1));
        add(llama_sampler_init_min_p((float) flags.number("min-p", 0.05, 0, 1), 1));
        add(llama_sampler_init_temp(temperature));
        add(llama_sampler_init_dist((uint32_t) flags.number("seed", LLAMA_DEFAULT_SEED, 0, LLAMA_DEFAULT_SEED)));
    }

    // Decodes on base what of the examples and `text` it has not read; the sampler does so by itself on the others.
    void decode(const std::vector<llama_token> &text) {
        std::vector<llama_token> tokens = shown;
        const bool begins_twice = !shown.empty() && text[0] == shown[0] && text[0] == llama_vocab_bos(vocab);
        tokens.insert(tokens.end(), text.begin() + begins_twice, text.end());
        const size_t room = llama_n_ctx(base.get());
        require(tokens.size() < room, "the context is full, " + std::to_string(room) + " tokens: pass a larger --ctx");
        size_t keep = 0;
        while (keep < read.size() && keep + 1 < tokens.size() && read[keep] == tokens[keep]) keep++; // but for the last
        if (!llama_memory_seq_rm(llama_get_memory(base.get()), 0, (llama_pos) keep, -1)) {
            llama_memory_clear(llama_get_memory(base.get()), false); // a recurrent state can't be cut back
            keep = 0;
        }
        read = tokens;
        for (size_t n; keep < read.size(); keep += n) {
            n = std::min<size_t>(llama_n_batch(base.get()), read.size() - keep);
            const int status = llama_decode(base.get(), llama_batch_get_one(read.data() + keep, (int32_t) n));
            require(status == 0, "llama.cpp could not decode a batch on base");
        }
    }

    // The next message of the assistant, written as it comes.
    std::string reply(const Messages &messages) {
        const std::string text = render(model(), messages);
        auto tokens = tokenize(vocab, text, true);
        // A reply keeps the ids it was sampled as where a control token follows it, across which no token reaches.
        const bool goes_on = !said.empty() && text.rfind(said, 0) == 0;
        const auto rest = tokenize(vocab, goes_on ? text.substr(said.size()) : "", false);
        if (!rest.empty() && llama_vocab_is_control(vocab, rest[0])) {
            tokens = said_ids;
            tokens.insert(tokens.end(), rest.begin(), rest.end());
        }
        llama_sampler_reset(chain.get());
        decode(tokens);
        eft_sampler_prompt(eft, tokens.data(), tokens.size());
        std::string answer;
        for (int left = flags.whole("max-tokens", std::numeric_limits<int>::max()); left > 0 && !interrupted; left--) {
            require(eft_sampler_decode(eft) == 0, eft_sampler_error(eft) ? eft_sampler_error(eft) : "");
            const llama_token token = llama_sampler_sample(chain.get(), base.get(), -1);
            if (flags.has("ids")) std::cerr << token << ' ';
            if (llama_vocab_is_eog(vocab, token)) break;
            const std::string part = piece(vocab, token);
            answer += part;
            std::cout << part << std::flush;
            tokens.push_back(token);
            if (left > 1) decode(tokens);
        }
        said = text + answer;
        said_ids = tokens;
        std::cout << std::endl;
        return answer;
    }
};

int main(int argc, char **argv) {
    llama_log_set([](ggml_log_level level, const char *text, void *) { // errors only
        std::fputs(level == GGML_LOG_LEVEL_ERROR ? text : "", stderr);
    }, nullptr);
    try {
        const Flags flags(argc, argv, USAGE);
        Chat chat(flags);
        Messages messages;
        if (flags.has("system")) messages.push_back({"system", flags.text("system")});
        const bool once = flags.has("prompt");
        for (std::string line = flags.text("prompt"); once || (std::cerr << "> " && std::getline(std::cin, line));) {
            messages.push_back({"user", line});
            std::signal(SIGINT, [](int) { interrupted = 1; }); // ends the reply; at the prompt Ctrl-C ends the program
            messages.push_back({"assistant", chat.reply(messages)});
            std::signal(SIGINT, SIG_DFL);
            if (once) return interrupted ? 130 : 0;
            interrupted = 0;
        }
        return 0;
    } catch (const std::exception &error) {
        std::cerr << "eft-chat: " << error.what() << std::endl;
        return 1;
    }
}
