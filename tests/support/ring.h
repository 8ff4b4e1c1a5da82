// Several processes on this machine as workers: children of the test, connected by MLX's ring.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "optiq/workers/workers.h"
#include "support/temporary_folder.h"

namespace optiq::test {

/// Ports that were free a moment ago.
inline std::vector<int> free_ports(int count) {
  std::vector<int> sockets, ports;
  for (int i = 0; i < count; ++i) {
    sockets.push_back(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    EXPECT_EQ(::bind(sockets.back(), reinterpret_cast<const sockaddr*>(&address), length), 0);
    EXPECT_EQ(::getsockname(sockets.back(), reinterpret_cast<sockaddr*>(&address), &length), 0);
    ports.push_back(ntohs(address.sin_port));
  }
  for (const int socket : sockets) ::close(socket);
  return ports;
}

/// Runs `body` in so many processes that have joined; how each of them ended, as waitpid says: 0 where it ran
/// through and no expectation failed. The test itself must not have used MLX before: its threads are not
/// forked.
inline std::vector<int> run_workers(int count, const std::function<void(const Workers&)>& body) {
  const TemporaryFolder folder;
  const std::filesystem::path hostfile = folder.path() / "hosts.json";
  std::string hosts;
  for (const int port : free_ports(count))
    hosts += (hosts.empty() ? "" : ",") + fmt::format(R"(["127.0.0.1:{}"])", port);
  std::ofstream(hostfile) << "[" << hosts << "]";
  std::vector<pid_t> children;
  for (int rank = 0; rank < count; ++rank) {
    children.push_back(::fork());
    if (children.back() != 0) continue;
    ::setenv("MLX_HOSTFILE", hostfile.c_str(), 1);
    ::setenv("MLX_RANK", std::to_string(rank).c_str(), 1);
    const auto workers = Workers::join();
    EXPECT_TRUE(workers) << workers.error().message;
    if (workers) body(*workers);
    std::exit(testing::Test::HasFailure() ? 1 : 0);
  }
  std::vector<int> ends;
  for (const pid_t child : children) {
    ends.emplace_back();
    EXPECT_EQ(::waitpid(child, &ends.back(), 0), child);
  }
  return ends;
}

}  // namespace optiq::test
