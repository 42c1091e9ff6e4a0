// A Temporal activity in C++: "count words" takes a text (JSON) and gives how often each word occurs (JSON), the most frequent
// first. It keeps a table of words to leave out, which each process reads once, at its start.
//
//   c++ -std=c++17 -O2 -shared -fPIC plugin_words.cpp $(pkg-config --cflags shmworker) -o libwords.so
//   STOPWORDS=stopwords.txt shmworker run -w 0 -a 2 --load ./libwords.so --task-queue words

#include <shmworker.hpp>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

struct Stopwords {
    std::set<std::string> words;

    Stopwords() {
        if (const char *path = std::getenv("STOPWORDS")) {
            std::ifstream file(path);
            if (!file) {
                throw std::runtime_error(std::string("cannot read ") + path);
            }
            for (std::string word; file >> word;) words.insert(word);
        }
    }
};

void count_words(shmworker::context &context) {
    const std::string_view text = context.input().text();
    if (context.encoding() != "json/plain" || text.size() < 2 || text.front() != '"') {
        throw shmworker::failure::permanent("the argument is no text in JSON", "BadInput");
    }
    const auto &stopwords = context.state_as<Stopwords>().words;
    std::map<std::string, std::size_t> counts;
    std::string word;
    auto end_of_word = [&] {
        if (!word.empty() && stopwords.count(word) == 0) ++counts[word];
        word.clear();
    };
    for (char c : text.substr(1)) {
        if (std::isalpha(static_cast<unsigned char>(c))) {
            word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        } else {
            end_of_word();
        }
        context.check_cancelled();
    }
    std::vector<std::pair<std::string, std::size_t>> ranking(counts.begin(), counts.end());
    std::stable_sort(ranking.begin(), ranking.end(), [](const auto &a, const auto &b) { return a.second > b.second; });
    std::string json = "{";
    for (const auto &[each, n] : ranking) {
        json += (json.size() > 1 ? ",\"" : "\"") + each + "\":" + std::to_string(n);
    }
    context.set_result(json + "}", "json/plain");
}

}  // namespace

SHMWORKER_PLUGIN(table) {
    return shmworker::plugin(table, [](shmworker::host &host) {
        host.state<Stopwords>().add("count words", count_words);
    });
}
